package io.mycat;

import io.mycat.Packets.Reader;
import io.mycat.Packets.SqlError;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/** A connection to a database server, for one session and one data node. */
final class Backend {
    private static final int CONNECT_MILLIS = 3000;
    private static final int FLAGS = Packets.LONG_PASSWORD | Packets.FOUND_ROWS | Packets.LONG_FLAG
            | Packets.CONNECT_WITH_DB | Packets.PROTOCOL_41 | Packets.TRANSACTIONS | Packets.SECURE
            | Packets.MULTI_RESULTS | Packets.PLUGIN_AUTH;

    final DataHost host;
    final Writer writer;
    /** Whether a transaction is open on it. */
    volatile boolean enlisted;
    /** Up to which of the session's SET statements it knows them. */
    int settings;
    private final SocketChannel channel;
    private final Socket socket;
    private final Packets packets;

    static final class DataNode {
        final String name;
        final DataHost host;
        final String database;

        DataNode(String name, DataHost host, String database) {
            this.name = name;
            this.host = host;
            this.database = database;
        }
    }

    /** A write host. */
    static final class Writer {
        final String name;
        final String address;
        final int port;
        final String user;
        final String password;
        volatile boolean alive = true;
        private volatile Backend heartbeat;

        Writer(String name, String address, int port, String user, String password) {
            this.name = name;
            this.address = address;
            this.port = port;
            this.user = user;
            this.password = password;
        }
    }

    /** Servers with the same data, of which one is in use. */
    static final class DataHost {
        final String name;
        final List<Writer> writers;
        final int limit;
        final Set<Backend> open = ConcurrentHashMap.newKeySet();
        volatile int index;
        private final boolean switches;
        private final String statement;
        private final long period;
        private volatile boolean stopped;

        DataHost(String name, List<Writer> writers, int limit, boolean switches, String statement, long period) {
            this.name = name;
            this.writers = writers;
            this.limit = limit;
            this.switches = switches;
            this.statement = statement;
            this.period = period;
        }

        Writer writer() {
            return writers.get(index);
        }

        /** Looks at every server from now on, and turns to the next one when that in use does not answer. */
        void watch(int first, Runnable switched) {
            index = first >= 0 && first < writers.size() ? first : 0;
            Thread thread = new Thread(() -> {
                while (!stopped) {
                    writers.forEach(writer -> writer.alive = answers(writer));
                    turn(switched);
                    try {
                        Thread.sleep(period);
                    } catch (InterruptedException end) {
                        return;
                    }
                }
                writers.forEach(writer -> drop(writer.heartbeat));
            }, "heartbeat-" + name);
            thread.setDaemon(true);
            thread.start();
        }

        void stop() {
            stopped = true;
        }

        private void turn(Runnable switched) {
            if (!switches || writer().alive) {
                return;
            }
            for (int i = 1; i < writers.size(); i++) {
                int next = (index + i) % writers.size();
                if (writers.get(next).alive) {
                    MycatStartup.say("dataHost " + name + ": " + writer().name + " is down, switched to "
                            + writers.get(next).name);
                    index = next;
                    // What waits for the one that is down is told so.
                    open.stream().filter(backend -> backend.writer != writer()).forEach(Backend::close);
                    switched.run();
                    return;
                }
            }
        }

        private boolean answers(Writer writer) {
            try {
                if (writer.heartbeat == null) {
                    writer.heartbeat = new Backend(this, writer, "", 33);
                    writer.heartbeat.socket.setSoTimeout((int) Math.max(1000, 2 * period));
                }
                writer.heartbeat.send(statement);
                writer.heartbeat.swallow();
                return true;
            } catch (IOException | SqlError error) {
                drop(writer.heartbeat);
                writer.heartbeat = null;
                return false;
            }
        }
    }

    private static void drop(Backend backend) {
        if (backend != null) {
            backend.close();
        }
    }

    /** Throws SqlError 1184 when there is nothing to connect to. */
    static Backend connect(DataNode node, int charset) throws SqlError {
        if (node.host.open.size() >= node.host.limit) {
            throw new SqlError(3009, "the max activeConnections size can not be max than maxconnections");
        }
        try {
            Backend backend = new Backend(node.host, node.host.writer(), node.database, charset);
            node.host.open.add(backend);
            return backend;
        } catch (IOException error) {
            throw new SqlError(1184, error.toString());
        }
    }

    private Backend(DataHost host, Writer writer, String database, int charset) throws IOException, SqlError {
        this.host = host;
        this.writer = writer;
        channel = SocketChannel.open();
        socket = channel.socket();
        try {
            socket.setTcpNoDelay(true);
            socket.setKeepAlive(true);
            socket.connect(new InetSocketAddress(writer.address, writer.port), CONNECT_MILLIS);
            socket.setSoTimeout(CONNECT_MILLIS);
            packets = new Packets(new BufferedInputStream(socket.getInputStream()),
                    new BufferedOutputStream(socket.getOutputStream()));
            login(database, charset);
            socket.setSoTimeout(0);
        } catch (IOException | SqlError error) {
            close();
            throw error;
        }
    }

    private void login(String database, int charset) throws IOException, SqlError {
        byte[] greeting = fine(packets.read());
        Reader reader = new Reader(greeting, 1);
        reader.zeroed();
        reader.integer(4);
        byte[] seed = new byte[20];
        System.arraycopy(reader.take(8), 0, seed, 0, 8);
        reader.take(19);
        System.arraycopy(reader.take(12), 0, seed, 8, 12);
        byte[] proof = Packets.scramble(writer.password, seed);
        packets.write(new Packets.Writer().integer(4, database.isEmpty() ? FLAGS & ~Packets.CONNECT_WITH_DB : FLAGS)
                .integer(4, 1 << 24).integer(1, charset).raw(new byte[23])
                .raw(writer.user.getBytes(StandardCharsets.UTF_8)).integer(1, 0)
                .integer(1, proof.length).raw(proof).text(database.isEmpty() ? "" : database + "\0")
                .zeroed(Packets.NATIVE).bytes());
        packets.flush();
        byte[] answer = fine(packets.read());
        if (answer[0] == (byte) 0xfe) {
            Reader change = new Reader(answer, 1);
            String plugin = change.zeroed();
            if (!plugin.equals(Packets.NATIVE)) {
                throw new SqlError(1184, writer.name + " wants " + plugin + ", not " + Packets.NATIVE);
            }
            packets.write(Packets.scramble(writer.password, change.take(20)));
            packets.flush();
            fine(packets.read());
        }
    }

    private byte[] fine(byte[] packet) throws SqlError {
        if (Packets.isError(packet)) {
            SqlError said = SqlError.of(packet);
            throw new SqlError(1184, writer.name + ": " + said.getMessage());
        }
        return packet;
    }

    /** False once the server has closed it, or is no longer the one in use. */
    boolean usable() {
        if (writer != host.writer() && !enlisted) {
            return false;
        }
        try {
            // Between statements nothing is to be read but the end.
            channel.configureBlocking(false);
            boolean quiet = channel.read(ByteBuffer.allocate(1)) == 0;
            channel.configureBlocking(true);
            return quiet;
        } catch (IOException error) {
            return false;
        }
    }

    void send(String statement) throws IOException {
        command(new Packets.Writer().integer(1, 3).text(statement).bytes());
    }

    void command(byte[] command) throws IOException {
        packets.command(command);
    }

    byte[] read() throws IOException {
        return packets.read();
    }

    /** A statement whose answer nobody wants. */
    void run(String statement) throws IOException, SqlError {
        send(statement);
        swallow();
    }

    private void swallow() throws IOException, SqlError {
        byte[] packet = packets.read();
        if (Packets.isError(packet)) {
            throw SqlError.of(packet);
        }
        if (packet[0] != 0) {
            for (int ends = 0; ends < 2; ends += Packets.isEnd(packets.read()) ? 1 : 0) {
                continue;
            }
        }
    }

    void close() {
        host.open.remove(this);
        try {
            socket.close();
        } catch (IOException error) {
            // It is gone either way.
        }
    }
}

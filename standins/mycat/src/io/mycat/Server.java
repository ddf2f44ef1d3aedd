package io.mycat;

import io.mycat.Packets.SqlError;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicInteger;

/** The two ports, and the configuration that is in force. */
final class Server {
    static final String VERSION = "5.6.29-mycat-standin-1.6.7.6";

    volatile Configuration configuration;
    private final File indexes;
    private final AtomicInteger connections = new AtomicInteger();
    private long busyUntil;

    Server(Configuration configuration, File indexes) {
        this.configuration = configuration;
        this.indexes = indexes;
    }

    void start() throws IOException {
        InetAddress address = InetAddress.getByName(configuration.system.getOrDefault("bindIp", "0.0.0.0"));
        ServerSocket server = listen("serverPort", "8066", address);
        ServerSocket manager = listen("managerPort", "9066", address);
        watch(configuration);
        accept(server, false);
        accept(manager, true);
    }

    private ServerSocket listen(String property, String otherwise, InetAddress address) throws IOException {
        return new ServerSocket(Integer.parseInt(configuration.system.getOrDefault(property, otherwise)), 200, address);
    }

    private void accept(ServerSocket listener, boolean manager) {
        thread((manager ? "manager" : "server") + "-port", () -> {
            while (true) {
                try {
                    Socket socket = listener.accept();
                    int id = connections.incrementAndGet();
                    thread("connection-" + id, new Session(this, socket, id, manager));
                } catch (IOException | OutOfMemoryError error) {
                    MycatStartup.say("a connection could not be taken: " + error);
                }
            }
        });
    }

    private static void thread(String name, Runnable work) {
        Thread thread = new Thread(work, name);
        thread.setDaemon(true);
        thread.start();
    }

    /** `reload @@config`, which keeps data nodes and hosts, or `reload @@config_all`. Throws SqlError 1003. */
    synchronized void reload(boolean all) throws SqlError {
        if (all && System.currentTimeMillis() < busyUntil) {
            throw new SqlError(1003, "The are several unfinished db transactions before executing \"reload @@config_all"
                    + "\", therefore the execution is terminated for logical integrity and please try again later.");
        }
        Configuration old = configuration;
        try {
            Configuration fresh = new Configuration();
            configuration = all ? fresh : new Configuration(fresh, old);
        } catch (RuntimeException error) {
            MycatStartup.say("reload: " + error.getMessage());
            throw new SqlError(1003, "Reload config failure");
        }
        if (all) {
            // As long as Mycat waits for statements from before.
            busyUntil = System.currentTimeMillis()
                    + 1000 * Long.parseLong(configuration.system.getOrDefault("sqlExecuteTimeout", "300"));
            old.hosts.values().forEach(Backend.DataHost::stop);
            watch(configuration);
        }
        MycatStartup.say("the configuration was reloaded");
    }

    private void watch(Configuration watched) {
        Properties before = new Properties();
        try (FileInputStream in = new FileInputStream(indexes)) {
            before.load(in);
        } catch (IOException error) {
            // There is none before the first switch.
        }
        for (Backend.DataHost host : watched.hosts.values()) {
            host.watch(Integer.parseInt(before.getProperty(host.name, "0")), this::note);
        }
    }

    /** Which write host is in use outlives a restart. */
    private synchronized void note() {
        Properties now = new Properties();
        configuration.hosts.values().forEach(host -> now.setProperty(host.name, String.valueOf(host.index)));
        try (FileOutputStream out = new FileOutputStream(indexes)) {
            now.store(out, null);
        } catch (IOException error) {
            MycatStartup.say("dnindex.properties: " + error.getMessage());
        }
    }
}

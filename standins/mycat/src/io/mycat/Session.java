package io.mycat;

import io.mycat.Packets.Reader;
import io.mycat.Packets.SqlError;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.math.BigInteger;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/** A client, from its login to its end, on a thread of its own. */
final class Session implements Runnable {
    private static final int FLAGS = Packets.LONG_PASSWORD | Packets.FOUND_ROWS | Packets.LONG_FLAG
            | Packets.CONNECT_WITH_DB | Packets.PROTOCOL_41 | Packets.TRANSACTIONS | Packets.SECURE
            | Packets.PLUGIN_AUTH;
    private static final int LOGIN_MILLIS = 15_000;

    private final Server server;
    private final Socket socket;
    private final int id;
    private final boolean manager;
    private final Map<String, Backend> backends = new LinkedHashMap<>();
    /** The SET statements that every backend has to know. */
    private final Set<String> settings = new LinkedHashSet<>();
    private int setting;
    private Packets packets;
    private String name;
    private String schema;
    private int charset;
    private boolean autocommit = true;
    private boolean transaction;
    /** Whether a part of the transaction went with a connection. */
    private boolean lost;
    /** Why the transaction can only be rolled back. */
    private String broken;
    private long lastInsertId;

    Session(Server server, Socket socket, int id, boolean manager) {
        this.server = server;
        this.socket = socket;
        this.id = id;
        this.manager = manager;
    }

    @Override
    public void run() {
        try (Socket closed = socket) {
            closed.setTcpNoDelay(true);
            closed.setKeepAlive(true);
            closed.setSoTimeout(LOGIN_MILLIS);
            packets = new Packets(new BufferedInputStream(closed.getInputStream()),
                    new BufferedOutputStream(closed.getOutputStream()));
            if (login()) {
                closed.setSoTimeout(0);
                do {
                    packets.flush();
                } while (serve());
            }
            packets.flush();
        } catch (IOException gone) {
            // A client may go whenever it likes.
        } finally {
            backends.values().forEach(Backend::close);
        }
    }

    // -- login ----------------------------------------------------------------------------------------------------

    private boolean login() throws IOException {
        byte[] seed = new byte[20];
        SecureRandom random = new SecureRandom();
        for (int i = 0; i < seed.length; i++) {
            seed[i] = (byte) ('0' + random.nextInt(64));
        }
        packets.command(new Packets.Writer().integer(1, 10).zeroed(Server.VERSION).integer(4, id)
                .raw(Arrays.copyOf(seed, 8)).integer(1, 0).integer(2, FLAGS).integer(1, 33)
                .integer(2, Packets.AUTOCOMMIT).integer(2, FLAGS >> 16).integer(1, 21).raw(new byte[10])
                .raw(Arrays.copyOfRange(seed, 8, 20)).integer(1, 0).zeroed(Packets.NATIVE).bytes());
        Reader reader = new Reader(packets.read(), 0);
        long flags = reader.integer(4);
        reader.integer(4);
        charset = (int) reader.integer(1);
        // What MySQL 8 calls 255 no MariaDB knows; 45 is utf8mb4 to both.
        charset = charset == 255 ? 45 : charset;
        reader.take(23);
        name = reader.zeroed();
        byte[] proof = reader.take((int) ((flags & Packets.LENENC_AUTH) != 0 ? reader.length() : reader.integer(1)));
        String wanted = (flags & Packets.CONNECT_WITH_DB) != 0 ? reader.zeroed() : "";
        String plugin = (flags & Packets.PLUGIN_AUTH) != 0 && reader.left() > 0 ? reader.zeroed() : Packets.NATIVE;
        if (!plugin.equals(Packets.NATIVE)) {
            packets.write(new Packets.Writer().integer(1, 0xfe).zeroed(Packets.NATIVE).raw(seed).integer(1, 0).bytes());
            packets.flush();
            proof = packets.read();
        }
        try {
            Configuration.User user = server.configuration.users.get(name);
            if (user == null) {
                throw new SqlError(1045, "28000", "Access denied for user '" + name + "' with host '"
                        + socket.getInetAddress().getHostAddress() + "'");
            }
            if (!Arrays.equals(proof, Packets.scramble(user.password, seed))) {
                throw new SqlError(1045, "28000",
                        "Access denied for user '" + name + "', because password is error ");
            }
            if (!wanted.isEmpty() && !manager) {
                use(wanted);
            }
            packets.write(Packets.ok(0, 0, Packets.AUTOCOMMIT));
            return true;
        } catch (SqlError error) {
            packets.write(Packets.error(error));
            return false;
        }
    }

    private Configuration.User user() throws SqlError {
        Configuration.User user = server.configuration.users.get(name);
        if (user == null) {
            throw new SqlError(1045, "28000", "Access denied for user '" + name + "'");
        }
        return user;
    }

    private void use(String wanted) throws SqlError {
        if (!server.configuration.schemas.containsKey(wanted)) {
            throw new SqlError(1049, "42000", "Unknown database '" + wanted + "'");
        }
        if (!user().schemas.contains(wanted)) {
            throw new SqlError(1044, "42000", "Access denied for user '" + name + "' to database '" + wanted + "'");
        }
        schema = wanted;
    }

    // -- commands -------------------------------------------------------------------------------------------------

    /** False after the last one. */
    private boolean serve() throws IOException {
        byte[] command = packets.read();
        String text = new Reader(command, 1).rest();
        try {
            switch (command.length == 0 ? -1 : command[0]) {
                case 1:
                    return false;
                case 2:
                    use(text);
                    done();
                    break;
                case 3:
                    if (manager) {
                        manage(text);
                    } else {
                        query(text);
                    }
                    break;
                case 4:
                    fields(command, text.substring(0, Math.max(0, text.indexOf(0))));
                    break;
                case 14:
                    done();
                    break;
                case 22:
                    throw SqlError.standIn("it does not cover prepared statements");
                case 27:
                    packets.write(Packets.end(status()));
                    break;
                case 31:
                    // What was open on them is rolled back.
                    backends.values().forEach(Backend::close);
                    backends.clear();
                    settings.clear();
                    autocommit = true;
                    transaction = false;
                    lost = false;
                    broken = null;
                    done();
                    break;
                default:
                    throw new SqlError(1047, "08S01", "Unknown command");
            }
        } catch (SqlError error) {
            packets.write(Packets.error(error));
        }
        return true;
    }

    private int status() {
        return (autocommit ? Packets.AUTOCOMMIT : 0) | (transaction ? Packets.IN_TRANSACTION : 0);
    }

    private void done() throws IOException {
        packets.write(Packets.ok(0, 0, status()));
    }

    private void answer(String column, String value) throws IOException {
        packets.table(List.of(column), List.of(Arrays.asList(value)), status());
    }

    private void query(String sql) throws IOException, SqlError {
        List<Routing.Token> tokens = Routing.tokens(sql);
        if (tokens.isEmpty()) {
            if (sql.trim().isEmpty()) {
                throw new SqlError(1148, "42000", "Empty SQL");
            }
            done();
            return;
        }
        String words = tokens.stream().map(token -> token.upper).collect(Collectors.joining(" "));
        switch (words) {
            case "SELECT 1":
            case "SELECT 1 FROM DUAL":
                answer("1", "1");
                return;
            case "SELECT DATABASE ( )":
                answer("DATABASE()", schema);
                return;
            case "SELECT USER ( )":
                answer("USER()", name + "@" + socket.getInetAddress().getHostAddress());
                return;
            case "SELECT VERSION ( )":
                answer("VERSION()", Server.VERSION);
                return;
            case "SELECT @@VERSION_COMMENT":
            case "SELECT @@VERSION_COMMENT LIMIT 1":
                answer("@@VERSION_COMMENT", "The stand-in for MyCat Server");
                return;
            case "SELECT LAST_INSERT_ID ( )":
                answer("LAST_INSERT_ID()", String.valueOf(lastInsertId));
                return;
            case "SHOW DATABASES":
            case "SHOW SCHEMAS":
                packets.table(List.of("DATABASE"),
                        user().schemas.stream().map(List::of).collect(Collectors.toList()), status());
                return;
            case "BEGIN":
            case "START TRANSACTION":
                finish("COMMIT");
                transaction = true;
                done();
                return;
            case "COMMIT":
            case "ROLLBACK":
                finish(broken == null ? words : "ROLLBACK");
                done();
                return;
            default:
                break;
        }
        if (broken != null) {
            throw new SqlError(1003, "Transaction error, need to rollback." + broken);
        }
        switch (tokens.get(0).upper) {
            case "USE":
                use(tokens.size() > 1 ? tokens.get(1).text : "");
                done();
                return;
            case "SAVEPOINT":
                throw new SqlError(1047, "08S01", "Unsupported statement");
            case "KILL":
                throw new SqlError(1094, "Unknown connection id:" + (tokens.size() > 1 ? tokens.get(1).text : ""));
            case "SET":
                set(sql, words);
                return;
            case "SELECT":
            case "SHOW":
            case "DESC":
            case "DESCRIBE":
            case "EXPLAIN":
                break;
            default:
                if (user().readOnly) {
                    throw new SqlError(1495, "User readonly");
                }
        }
        if (words.matches("SHOW (FULL )?TABLES.*")) {
            if (schema == null) {
                throw new SqlError(1046, "3D000", "No database selected");
            }
            Configuration.Schema shown = server.configuration.schemas.get(schema);
            if (shown != null && shown.node == null) {
                boolean full = words.startsWith("SHOW FULL");
                packets.table(full ? List.of("Tables in " + schema, "Table_type") : List.of("Tables in " + schema),
                        shown.tables.keySet().stream().sorted().map(table -> table.toLowerCase(Locale.ROOT))
                                .map(table -> full ? List.of(table, "BASE TABLE") : List.of(table))
                                .collect(Collectors.toList()), status());
                return;
            }
        }
        execute(sql);
    }

    private void set(String sql, String words) throws IOException, SqlError {
        if (words.matches("SET (SESSION |@@SESSION \\. |@@)?AUTOCOMMIT = (1|ON|TRUE)")) {
            finish(broken == null ? "COMMIT" : "ROLLBACK");
            autocommit = true;
        } else if (words.matches("SET (SESSION |@@SESSION \\. |@@)?AUTOCOMMIT = (0|OFF|FALSE)")) {
            autocommit = false;
        } else if (words.matches("SET (NAMES|(SESSION )?TRANSACTION|CHARACTER_SET_RESULTS) .*")) {
            remember(sql);
        } else {
            execute(sql);
            if (!words.startsWith("SET @") || words.startsWith("SET @@")) {
                remember(sql);
            }
            return;
        }
        done();
    }

    private void finish(String how) throws SqlError {
        transaction = false;
        broken = null;
        SqlError failed = lost ? new SqlError(1105, "receive rollback,but find backend con is closed or quit") : null;
        lost = false;
        for (Iterator<Backend> each = backends.values().iterator(); each.hasNext();) {
            Backend backend = each.next();
            if (!backend.enlisted) {
                continue;
            }
            try {
                backend.run(how);
                backend.enlisted = false;
            } catch (IOException | SqlError error) {
                backend.close();
                each.remove();
                failed = error instanceof SqlError ? (SqlError) error : new SqlError(1184, error.toString());
            }
        }
        if (failed != null) {
            throw failed;
        }
    }

    // -- statements -----------------------------------------------------------------------------------------------

    private void execute(String sql) throws IOException, SqlError {
        Configuration configuration = server.configuration;
        Routing routing = Routing.of(configuration, user(), schema, sql);
        Totals totals = new Totals();
        try {
            for (Map.Entry<String, String> each : routing.statements.entrySet()) {
                Backend backend = backend(configuration, each.getKey());
                byte[] command = new Packets.Writer().integer(1, 3).text(each.getValue()).bytes();
                relay(backend, each.getKey(), command, routing.answers, totals);
            }
        } catch (SqlError error) {
            if (transaction || !autocommit) {
                broken = " errno:" + error.code + " " + error.getMessage();
            }
            throw error;
        }
        if (totals.updated) {
            lastInsertId = totals.insertId != 0 ? totals.insertId : lastInsertId;
            packets.write(Packets.ok(totals.affected, totals.insertId, status()));
        } else if (routing.answers == Routing.Answers.COUNT) {
            packets.write(new Packets.Writer().string(totals.count.toString()).bytes());
            packets.write(Packets.end(status()));
        } else {
            packets.write(Packets.end(status()));
        }
    }

    private void remember(String set) {
        settings.remove(set);
        settings.add(set);
        setting++;
    }

    private static final class Totals {
        boolean updated;
        boolean described;
        long affected;
        long insertId;
        BigInteger count = BigInteger.ZERO;
    }

    /** One node's answer: its rows go to the client as they come, everything else into the totals. */
    private void relay(Backend backend, String node, byte[] command, Routing.Answers answers, Totals totals)
            throws IOException, SqlError {
        boolean more = true;
        try {
            backend.command(command);
            while (more) {
                byte[] first = backend.read();
                if (Packets.isError(first)) {
                    throw SqlError.of(first);
                }
                if (first[0] == 0) {
                    Reader ok = new Reader(first, 1);
                    long affected = ok.length();
                    long insertId = ok.length();
                    more = (ok.integer(2) & Packets.MORE_RESULTS) != 0;
                    totals.affected = answers == Routing.Answers.SUM || !totals.updated
                            ? totals.affected + affected : totals.affected;
                    totals.insertId = Math.max(totals.insertId, insertId);
                    totals.updated = true;
                    continue;
                }
                toClient(first, !totals.described);
                byte[] packet = backend.read();
                for (; !Packets.isEnd(packet); packet = backend.read()) {
                    toClient(packet, !totals.described);
                }
                toClient(packet, !totals.described);
                totals.described = true;
                for (packet = backend.read(); !Packets.isEnd(packet); packet = backend.read()) {
                    if (Packets.isError(packet)) {
                        throw SqlError.of(packet);
                    }
                    if (answers == Routing.Answers.COUNT) {
                        Reader row = new Reader(packet, 0);
                        byte[] digits = row.take((int) row.length());
                        totals.count = totals.count.add(
                                new BigInteger(new String(digits, StandardCharsets.ISO_8859_1)));
                    } else {
                        packets.write(packet);
                    }
                }
                more = (new Reader(packet, 3).integer(2) & Packets.MORE_RESULTS) != 0;
                if (more) {
                    throw new IOException("several results");
                }
            }
        } catch (IOException error) {
            backends.remove(node);
            backend.close();
            lost |= backend.enlisted;
            if (socket.isClosed()) {
                throw error;
            }
            throw new SqlError(1184, error.toString());
        }
    }

    private void toClient(byte[] packet, boolean wanted) throws IOException {
        if (wanted) {
            packets.write(packet);
        }
    }

    /** The session's connection to a node, ready for a statement. */
    private Backend backend(Configuration configuration, String name) throws SqlError {
        Backend.DataNode node = configuration.nodes.get(name);
        Backend backend = backends.get(name);
        boolean gone = backend != null && !backend.usable();
        if (backend != null && (gone || node == null || backend.host != node.host && !backend.enlisted)) {
            boolean mattered = backend.enlisted;
            backends.remove(name).close();
            if (mattered) {
                lost = true;
                throw new SqlError(1184, "the connection to " + backend.writer.name + " is lost");
            }
            backend = null;
        }
        if (node == null) {
            throw new SqlError(1184, "there is no dataNode " + name + " before `reload @@config_all`");
        }
        if (backend == null) {
            backend = Backend.connect(node, charset);
            backends.put(name, backend);
        }
        try {
            if (backend.settings != setting) {
                for (String each : settings) {
                    backend.run(each);
                }
                backend.settings = setting;
            }
            if ((transaction || !autocommit) && !backend.enlisted) {
                backend.run("START TRANSACTION");
                backend.enlisted = true;
            }
            return backend;
        } catch (IOException error) {
            backends.remove(name).close();
            throw new SqlError(1184, error.toString());
        }
    }

    private void fields(byte[] command, String table) throws IOException, SqlError {
        Configuration configuration = server.configuration;
        Routing routing = Routing.of(configuration, user(), schema, "SELECT 1 FROM `" + table + "` LIMIT 0");
        String node = routing.statements.keySet().iterator().next();
        Backend backend = backend(configuration, node);
        try {
            backend.command(command);
            byte[] packet;
            do {
                packet = backend.read();
                packets.write(packet);
            } while (!Packets.isEnd(packet) && !Packets.isError(packet));
        } catch (IOException error) {
            backends.remove(node).close();
            throw new SqlError(1184, error.toString());
        }
    }

    // -- the manager's port ---------------------------------------------------------------------------------------

    private void manage(String sql) throws IOException, SqlError {
        List<List<String>> rows = new ArrayList<>();
        Configuration now = server.configuration;
        switch (sql.trim().toLowerCase(Locale.ROOT).replaceAll("\\s*;$", "").replaceAll("\\s+", " ")) {
            case "reload @@config":
                server.reload(false);
                done();
                return;
            case "reload @@config_all":
                server.reload(true);
                done();
                return;
            case "show @@version":
                answer("VERSION", Server.VERSION);
                return;
            case "select @@version_comment limit 1":
                answer("@@VERSION_COMMENT", "The stand-in for MyCat Server (monitor)");
                return;
            case "show databases":
                now.schemas.keySet().forEach(each -> rows.add(List.of(each)));
                packets.table(List.of("DATABASE"), rows, status());
                return;
            case "show @@datanode":
                now.nodes.values().forEach(node -> rows.add(List.of(node.name, node.host.name + "/" + node.database,
                        String.valueOf(node.host.index), "mysql")));
                packets.table(List.of("NAME", "DATHOST", "INDEX", "TYPE"), rows, status());
                return;
            case "show @@heartbeat":
                now.hosts.values().forEach(host -> host.writers.forEach(writer -> rows.add(List.of(writer.name, "mysql",
                        writer.address, String.valueOf(writer.port), writer.alive ? "1" : "-1"))));
                packets.table(List.of("NAME", "TYPE", "HOST", "PORT", "RS_CODE"), rows, status());
                return;
            case "show @@datasource":
                now.nodes.values().forEach(node -> node.host.writers.forEach(writer -> rows.add(List.of(node.name,
                        writer.name, "mysql", writer.address, String.valueOf(writer.port), "W"))));
                packets.table(List.of("DATANODE", "NAME", "TYPE", "HOST", "PORT", "W/R"), rows, status());
                return;
            default:
                if (sql.trim().toLowerCase(Locale.ROOT).startsWith("set ")) {
                    done();
                    return;
                }
                throw new SqlError(1003, "Unsupported statement");
        }
    }
}

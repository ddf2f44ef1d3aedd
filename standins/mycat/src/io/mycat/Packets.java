package io.mycat;

import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.List;

/**
 * MySQL's wire format: packets with a length and a number, and what is in them.
 * Text is ISO-8859-1 throughout, so that every byte comes out as it went in.
 * Source: "Client/Server Protocol" in MySQL's internals documentation.
 */
final class Packets {
    static final int LONG_PASSWORD = 1, FOUND_ROWS = 2, LONG_FLAG = 4, CONNECT_WITH_DB = 8, PROTOCOL_41 = 0x200,
            TRANSACTIONS = 0x2000, SECURE = 0x8000, MULTI_RESULTS = 0x20000, PLUGIN_AUTH = 0x80000,
            LENENC_AUTH = 0x200000;
    static final int AUTOCOMMIT = 2, IN_TRANSACTION = 1, MORE_RESULTS = 8;
    static final String NATIVE = "mysql_native_password";
    private static final int FULL = 0xffffff;

    private final InputStream in;
    private final OutputStream out;
    private int number;

    Packets(InputStream in, OutputStream out) {
        this.in = in;
        this.out = out;
    }

    /** The next packet's content; those that are too long for one come joined. */
    byte[] read() throws IOException {
        byte[] all = new byte[0];
        while (true) {
            byte[] head = exactly(4);
            int length = head[0] & 0xff | (head[1] & 0xff) << 8 | (head[2] & 0xff) << 16;
            number = (head[3] & 0xff) + 1;
            byte[] part = exactly(length);
            if (all.length == 0) {
                all = part;
            } else {
                int before = all.length;
                all = Arrays.copyOf(all, before + length);
                System.arraycopy(part, 0, all, before, length);
            }
            if (length < FULL) {
                return all;
            }
        }
    }

    private byte[] exactly(int length) throws IOException {
        byte[] bytes = in.readNBytes(length);
        if (bytes.length < length) {
            throw new EOFException("the connection was closed");
        }
        return bytes;
    }

    void write(byte[] content) throws IOException {
        for (int from = 0; ; from += FULL) {
            int length = Math.min(FULL, content.length - from);
            out.write(new byte[] {(byte) length, (byte) (length >> 8), (byte) (length >> 16), (byte) number++});
            out.write(content, from, length);
            if (length < FULL) {
                return;
            }
        }
    }

    void flush() throws IOException {
        out.flush();
    }

    /** A command starts a new count. */
    void command(byte[] content) throws IOException {
        number = 0;
        write(content);
        flush();
    }

    static boolean isError(byte[] packet) {
        return packet.length > 0 && (packet[0] & 0xff) == 0xff;
    }

    static boolean isEnd(byte[] packet) {
        return packet.length > 0 && packet.length < 9 && (packet[0] & 0xff) == 0xfe;
    }

    static byte[] ok(long affected, long insertId, int status) {
        return new Writer().integer(1, 0).length(affected).length(insertId).integer(2, status).integer(2, 0).bytes();
    }

    static byte[] end(int status) {
        return new Writer().integer(1, 0xfe).integer(2, 0).integer(2, status).bytes();
    }

    static byte[] error(SqlError error) {
        return new Writer().integer(1, 0xff).integer(2, error.code).text("#" + error.state + error.getMessage()).bytes();
    }

    /** A result set of texts. */
    void table(List<String> columns, List<List<String>> rows, int status) throws IOException {
        write(new Writer().length(columns.size()).bytes());
        for (String column : columns) {
            Writer writer = new Writer().string("def").string("").string("").string("").string(column).string(column);
            write(writer.integer(1, 12).integer(2, 33).integer(4, 1024).integer(1, 0xfd).integer(2, 0).integer(1, 0)
                    .integer(2, 0).bytes());
        }
        write(end(status));
        for (List<String> row : rows) {
            Writer writer = new Writer();
            row.forEach(writer::string);
            write(writer.bytes());
        }
        write(end(status));
    }

    /** What proves the password to who asked with this seed. */
    static byte[] scramble(String password, byte[] seed) {
        if (password.isEmpty()) {
            return new byte[0];
        }
        try {
            MessageDigest sha1 = MessageDigest.getInstance("SHA-1");
            byte[] once = sha1.digest(password.getBytes(StandardCharsets.UTF_8));
            byte[] twice = sha1.digest(once);
            sha1.update(seed);
            byte[] mixed = sha1.digest(twice);
            for (int i = 0; i < mixed.length; i++) {
                mixed[i] ^= once[i];
            }
            return mixed;
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    /** What a client is told: an error number, an SQL state and a text. */
    static final class SqlError extends Exception {
        private static final long serialVersionUID = 1;
        final int code;
        final String state;

        SqlError(int code, String state, String text) {
            super(text == null ? "" : text);
            this.code = code;
            this.state = state;
        }

        SqlError(int code, String text) {
            this(code, "HY000", text);
        }

        static SqlError parse(String text) {
            return new SqlError(1064, text);
        }

        /** The stand-in can less than Mycat, and never pretends. */
        static SqlError standIn(String what) {
            return new SqlError(1235, "42000", "This is the stand-in for Mycat: " + what);
        }

        static SqlError of(byte[] packet) {
            Reader reader = new Reader(packet, 1);
            int code = (int) reader.integer(2);
            String text = reader.rest();
            return text.startsWith("#") && text.length() > 5
                    ? new SqlError(code, text.substring(1, 6), text.substring(6)) : new SqlError(code, text);
        }
    }

    static final class Reader {
        private final byte[] bytes;
        private int at;

        Reader(byte[] bytes, int at) {
            this.bytes = bytes;
            this.at = at;
        }

        long integer(int size) {
            long value = 0;
            for (int i = 0; i < size; i++) {
                value |= (at < bytes.length ? bytes[at] & 0xffL : 0) << 8 * i;
                at++;
            }
            return value;
        }

        long length() {
            int first = (int) integer(1);
            return first < 0xfb ? first : first == 0xfb ? -1 : integer(first == 0xfc ? 2 : first == 0xfd ? 3 : 8);
        }

        byte[] take(int size) {
            byte[] taken = Arrays.copyOfRange(bytes, Math.min(at, bytes.length), Math.min(at + size, bytes.length));
            at += size;
            return taken;
        }

        /** Up to a zero byte, or the end. */
        String zeroed() {
            int start = at;
            while (at < bytes.length && bytes[at] != 0) {
                at++;
            }
            return new String(bytes, start, Math.max(0, at++ - start), StandardCharsets.ISO_8859_1);
        }

        String rest() {
            return new String(take(Math.max(0, bytes.length - at)), StandardCharsets.ISO_8859_1);
        }

        int left() {
            return bytes.length - at;
        }
    }

    static final class Writer {
        private final ByteArrayOutputStream out = new ByteArrayOutputStream();

        Writer integer(int size, long value) {
            for (int i = 0; i < size; i++) {
                out.write((int) (value >> 8 * i));
            }
            return this;
        }

        Writer length(long value) {
            if (value < 0xfb) {
                return integer(1, value);
            }
            return value < 0x10000 ? integer(1, 0xfc).integer(2, value) : integer(1, 0xfe).integer(8, value);
        }

        Writer raw(byte[] bytes) {
            out.writeBytes(bytes);
            return this;
        }

        Writer text(String text) {
            return raw(text.getBytes(StandardCharsets.ISO_8859_1));
        }

        Writer zeroed(String text) {
            return text(text).integer(1, 0);
        }

        /** With its length before it; null is NULL. */
        Writer string(String text) {
            return text == null ? integer(1, 0xfb) : length(text.length()).text(text);
        }

        byte[] bytes() {
            return out.toByteArray();
        }
    }
}

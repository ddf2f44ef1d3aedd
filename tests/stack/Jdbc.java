import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/**
 * A Java client as an application server has it: one connection that is kept, and made anew when it breaks.
 *
 * <p>{@code java -cp CONNECTOR:CLASSES Jdbc URL USER SECONDS STATEMENT}, the password on a line of standard input. Runs
 * the statement over and over for so many seconds (0: once), and prints a line for each time: milliseconds since 1970,
 * {@code ok} or {@code failed}, and the first column of the first row, or what went wrong.
 */
public class Jdbc {
    public static void main(String[] words) throws Exception {
        String url = words[0], user = words[1], statement = words[3];
        String password = new BufferedReader(new InputStreamReader(System.in)).readLine();
        long end = System.nanoTime() + Long.parseLong(words[2]) * 1_000_000_000L;
        Connection connection = null;
        do {
            try {
                if (connection == null) {
                    connection = DriverManager.getConnection(url, user, password);
                }
                say("ok", first(connection, statement));
            } catch (SQLException error) {
                say("failed", error.getMessage().lines().findFirst().orElse(""));
                if (connection != null) {
                    connection.abort(Runnable::run);
                    connection = null;
                }
            }
            Thread.sleep(100);
        } while (System.nanoTime() < end);
    }

    private static String first(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            if (!statement.execute(text)) {
                return String.valueOf(statement.getUpdateCount());
            }
            try (ResultSet rows = statement.getResultSet()) {
                return rows.next() ? rows.getString(1) : "";
            }
        }
    }

    private static void say(String outcome, String what) {
        System.out.println(System.currentTimeMillis() + "\t" + outcome + "\t" + what);
    }
}

package io.mycat;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.net.BindException;
import java.nio.charset.StandardCharsets;
import java.time.LocalDateTime;
import java.time.temporal.ChronoUnit;

/** The class that Mycat is started by. Exit status as Mycat's: 1 for what the files say, 255 for all else. */
public final class MycatStartup {
    private static final String LOUDLY = "THIS IS NOT MYCAT but a stand-in for it: logins, schemas and statements to the "
            + "data nodes that schema.xml names, sharded by PartitionByMod; reads and writes go to the write host in "
            + "use; no hints, no merging of ordered or grouped rows, no prepared statements";
    private static PrintStream log;

    private MycatStartup() {
    }

    public static void main(String[] arguments) throws InterruptedException {
        String home = System.getProperty("MYCAT_HOME");
        if (home == null) {
            System.out.println("MYCAT_HOME  is not set.");
            System.exit(-1);
        }
        openLog(new File(home, "logs/mycat.log"));
        say(LOUDLY);
        try {
            new Server(new Configuration(), new File(home, "conf/dnindex.properties")).start();
            say("MyCAT Server startup successfully (the stand-in)");
        } catch (Configuration.Refused | NumberFormatException | IndexOutOfBoundsException error) {
            say("startup error");
            say("Caused by: io.mycat.config.util.ConfigException: " + error.getMessage());
            System.exit(1);
        } catch (BindException error) {
            say("startup error java.net.BindException: " + error.getMessage());
            System.exit(-1);
        } catch (IOException error) {
            say("startup error " + error);
            System.exit(-1);
        }
        Thread.currentThread().join();
    }

    /** To Mycat's own log file as well, unless log4j2.xml names no file. */
    private static void openLog(File file) {
        try (InputStream in = Configuration.resource("log4j2.xml")) {
            if (in == null || new String(in.readAllBytes(), StandardCharsets.UTF_8).contains("fileName=")) {
                log = new PrintStream(new FileOutputStream(file, true), true, StandardCharsets.UTF_8);
            }
        } catch (IOException error) {
            System.err.println(error.getMessage());
        }
    }

    static synchronized void say(String text) {
        String line = LocalDateTime.now().truncatedTo(ChronoUnit.MILLIS) + " " + text;
        System.err.println(line);
        if (log != null) {
            log.println(line);
        }
    }
}

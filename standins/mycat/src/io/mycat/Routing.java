package io.mycat;

import io.mycat.Configuration.Rule;
import io.mycat.Configuration.Schema;
import io.mycat.Configuration.Table;
import io.mycat.Packets.SqlError;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Which data nodes a statement goes to, from its words alone: what it cannot tell it refuses. */
final class Routing {
    /** What becomes of the answers of several nodes. */
    enum Answers { FIRST, SUM, ROWS, COUNT }

    private static final Pattern TOKEN = Pattern.compile(
            "(?<blank>\\s+|--(?=\\s|$)[^\\n]*|#[^\\n]*|/\\*.*?\\*/)|(?<text>'(?:[^'\\\\]|\\\\.|'')*'|\"(?:[^\"\\\\]|\\\\.|\"\")*\")"
            + "|(?<quoted>`[^`]*`)|(?<number>[0-9]+(?![\\w.]))|(?<word>@{0,2}[\\w$\\x80-\\xff]+)|(?<sign>.)", Pattern.DOTALL);
    private static final Pattern HINT = Pattern.compile("(?i)/\\*[!#]?\\s*mycat:(?!\\s*db_type\\s*=)");
    private static final Set<String> READS = Set.of("SELECT", "SHOW", "DESC", "DESCRIBE", "EXPLAIN", "WITH", "(");
    private static final List<String> DML = List.of("INSERT", "UPDATE", "SELECT", "DELETE");
    private static final Set<String> DDL = Set.of("CREATE", "DROP", "ALTER", "TRUNCATE");
    private static final Set<String> BEFORE_NAMES = Set.of("IF", "NOT", "EXISTS", "IGNORE", "LOW_PRIORITY", "QUICK",
            "DELAYED", "HIGH_PRIORITY", "INTO", "TABLE", "FULL", "EXTENDED", "FROM");
    private static final Set<String> FROM_FUNCTIONS = Set.of("EXTRACT", "TRIM", "SUBSTRING", "SUBSTR", "MID");
    private static final Set<String> SERVERS_OWN = Set.of("INFORMATION_SCHEMA", "MYSQL", "PERFORMANCE_SCHEMA", "SYS");
    private static final Set<String> NEED_MERGING = Set.of("GROUP", "HAVING", "ORDER", "LIMIT", "DISTINCT", "UNION",
            "COUNT", "SUM", "AVG", "MIN", "MAX", "GROUP_CONCAT", "OVER");
    private static final Set<String> AFTER_WHERE = Set.of("GROUP", "HAVING", "ORDER", "LIMIT", "FOR", "LOCK");

    static final class Token {
        final String text;
        final String upper;
        final boolean plain;
        final int start;
        final int end;
        final int depth;

        Token(String text, boolean plain, int start, int end, int depth) {
            this.text = text;
            this.upper = text.toUpperCase(Locale.ROOT);
            this.plain = plain;
            this.start = start;
            this.end = end;
            this.depth = depth;
        }

        boolean is(String word) {
            return plain && upper.equals(word);
        }
    }

    final Schema schema;
    final Answers answers;
    /** The statement for each node. */
    final Map<String, String> statements = new LinkedHashMap<>();

    private Routing(Schema schema, Answers answers, Iterable<String> nodes, String sql) {
        this.schema = schema;
        this.answers = answers;
        nodes.forEach(node -> statements.put(node, sql));
    }

    /** Without blanks, comments and a closing semicolon. Names lose their quotes, texts keep them. */
    static List<Token> tokens(String sql) throws SqlError {
        if (HINT.matcher(sql).find()) {
            throw SqlError.standIn("it does not cover hints other than db_type");
        }
        List<Token> found = new ArrayList<>();
        Matcher matcher = TOKEN.matcher(sql);
        int depth = 0;
        while (matcher.find()) {
            String text = matcher.group();
            if (matcher.group("blank") != null) {
                continue;
            }
            boolean quoted = matcher.group("quoted") != null;
            depth -= text.equals(")") ? 1 : 0;
            found.add(new Token(quoted ? text.substring(1, text.length() - 1) : text, !quoted, matcher.start(),
                    matcher.end(), depth));
            depth += text.equals("(") ? 1 : 0;
        }
        while (!found.isEmpty() && found.get(found.size() - 1).text.equals(";")) {
            found.remove(found.size() - 1);
        }
        if (found.stream().anyMatch(token -> token.is(";"))) {
            throw SqlError.parse("several statements in one");
        }
        return found;
    }

    /** Throws SqlError with Mycat's own numbers and words, or 1235 for what only the stand-in cannot do. */
    static Routing of(Configuration configuration, Configuration.User user, String current, String sql)
            throws SqlError {
        List<Token> tokens = tokens(sql);
        List<String[]> names = names(tokens);
        String first = tokens.get(0).upper;
        String given = names.stream().map(name -> name[0]).filter(configuration.schemas::containsKey).findFirst()
                .orElse(current != null ? current : user.defaultSchema);
        if (given == null && names.isEmpty() && READS.contains(first) || given == null && first.equals("SET")) {
            given = user.schemas.get(0);
        }
        if (given == null) {
            throw new SqlError(3000, "No MyCAT Database selected");
        }
        Schema schema = configuration.schemas.get(given);
        if (schema == null) {
            throw new SqlError(3000, "Unknown MyCAT Database '" + given + "'");
        }
        if (!user.schemas.contains(given)) {
            throw new SqlError(1044, "42000", "Access denied for user '" + user.name + "' to database '" + given + "'");
        }
        String own = withoutSchema(sql, tokens, schema.name);
        return route(configuration, user, schema, own, tokens(own), names);
    }

    private static Routing route(Configuration configuration, Configuration.User user, Schema schema, String sql,
            List<Token> tokens, List<String[]> names) throws SqlError {
        String first = tokens.get(0).upper;
        boolean read = READS.contains(first) || first.equals("SET");
        if (first.equals("REPLACE") && !schema.tables.isEmpty()) {
            throw SqlError.parse(" ReplaceStatement can't be supported,use insert into ...on duplicate key update... "
                    + "instead ");
        }
        String anywhere = schema.node != null ? schema.node : schema.tables.values().iterator().next().nodes.get(0);
        Map<String, Table> tables = new TreeMap<>();
        boolean unlisted = false;
        for (String[] name : names) {
            String table = name[1].toUpperCase(Locale.ROOT);
            int right = DML.indexOf(first);
            if (right >= 0 && !user.may(right, schema.name, table)) {
                throw new SqlError(3012, "The statement DML privilege check is not passed, reject for user '"
                        + user.name + "'");
            }
            if (read && name[0] != null && SERVERS_OWN.contains(name[0].toUpperCase(Locale.ROOT))
                    || read && name[0] == null && table.equals("DUAL")) {
                continue;
            }
            boolean foreign = name[0] != null && !name[0].equals(schema.name);
            Table listed = foreign ? null : schema.tables.get(table);
            if (listed != null) {
                tables.put(table, listed);
            } else if (schema.node != null && !foreign) {
                unlisted = true;
            } else {
                String full = foreign ? name[0].toUpperCase(Locale.ROOT) + "." + table : table;
                throw SqlError.parse(DDL.contains(first) ? "op table not in schema----" + full
                        : "can't find table define in schema " + full + " schema:" + schema.name);
            }
        }
        if (tables.isEmpty()) {
            if (!read && !unlisted && DDL.contains(first)) {
                throw SqlError.parse("op table not in schema----" + (tokens.size() > 1 ? tokens.get(1).upper : ""));
            }
            if (!read && !unlisted && schema.node == null) {
                throw SqlError.parse("the stand-in for Mycat does not know the statement " + first);
            }
            return new Routing(schema, Answers.FIRST, List.of(anywhere), limited(schema, first, tokens, sql));
        }
        if (!read && !DML.contains(first) && !DDL.contains(first)) {
            throw SqlError.standIn("it does not cover " + first);
        }
        if (tables.size() == 1 && !unlisted) {
            return one(schema, first, sql, tokens, tables.values().iterator().next());
        }
        return several(schema, first, sql, tokens, tables.values(), unlisted ? schema.node : null);
    }

    private static Routing one(Schema schema, String first, String sql, List<Token> tokens, Table table)
            throws SqlError {
        boolean read = READS.contains(first);
        if (DDL.contains(first)) {
            if (tokens.stream().limit(3).anyMatch(token -> token.is("INDEX"))) {
                throw SqlError.standIn("like Mycat itself it does not cover CREATE INDEX and DROP INDEX");
            }
            return new Routing(schema, Answers.FIRST, table.nodes, sql);
        }
        if (table.rule == null) {
            return new Routing(schema, Answers.FIRST, read ? table.nodes.subList(0, 1) : table.nodes,
                    limited(schema, first, tokens, sql));
        }
        if (!first.equals("SELECT") && read) {
            return new Routing(schema, Answers.FIRST, table.nodes.subList(0, 1), sql);
        }
        Rule rule = table.rule;
        if (rule.count == 0) {
            throw SqlError.standIn("it shards by PartitionByMod only, and not by " + rule.function);
        }
        if (first.equals("INSERT")) {
            return insert(schema, sql, tokens, table);
        }
        if (first.equals("UPDATE")) {
            boolean after = false;
            for (int i = 0; i + 1 < tokens.size() && !tokens.get(i).is("WHERE"); i++) {
                after |= tokens.get(i).is("SET");
                if (after && tokens.get(i).upper.equalsIgnoreCase(rule.column) && tokens.get(i + 1).is("=")) {
                    throw SqlError.parse("Sharding column can't be updated " + table.name.toUpperCase(Locale.ROOT)
                            + "->" + rule.column.toUpperCase(Locale.ROOT));
                }
            }
        }
        Set<String> nodes = chosen(tokens, table);
        if (nodes.size() == 1 || !read) {
            return new Routing(schema, read ? Answers.FIRST : Answers.SUM, nodes, limited(schema, first, tokens, sql));
        }
        return new Routing(schema, merged(tokens), nodes, limited(schema, first, tokens, sql));
    }

    /** Tables that one node has together. */
    private static Routing several(Schema schema, String first, String sql, List<Token> tokens,
            Iterable<Table> tables, String with) throws SqlError {
        List<String> common = with == null ? null : new ArrayList<>(List.of(with));
        Table sharded = null;
        for (Table table : tables) {
            if (table.rule != null && sharded != null || !READS.contains(first) && !DDL.contains(first)) {
                throw SqlError.standIn("it does not cover a statement with these tables together");
            }
            sharded = table.rule != null ? table : sharded;
            if (common == null) {
                common = new ArrayList<>(table.nodes);
            } else {
                common.retainAll(table.nodes);
            }
        }
        if (common == null || common.isEmpty() || sharded != null && !common.containsAll(sharded.nodes)
                || DDL.contains(first)) {
            throw SqlError.standIn("it does not cover a statement with these tables together");
        }
        return sharded == null ? new Routing(schema, Answers.FIRST, common.subList(0, 1), sql)
                : new Routing(schema, merged(tokens), sharded.nodes, sql);
    }

    private static Routing insert(Schema schema, String sql, List<Token> tokens, Table table) throws SqlError {
        int at = 1;
        while (at < tokens.size() && !tokens.get(at).is("(") && !tokens.get(at).is("VALUES")
                && !tokens.get(at).is("VALUE") && !tokens.get(at).is("SET") && !tokens.get(at).is("SELECT")) {
            at++;
        }
        if (at < tokens.size() && tokens.get(at).is("SET")) {
            for (; at + 2 < tokens.size(); at++) {
                if (tokens.get(at).upper.equalsIgnoreCase(table.rule.column) && tokens.get(at + 1).is("=")) {
                    return new Routing(schema, Answers.SUM, List.of(node(table, literal(tokens, at + 2))), sql);
                }
            }
            throw SqlError.parse("bad insert sql (sharding column:" + table.rule.column + " not provided," + sql);
        }
        if (at >= tokens.size() || !tokens.get(at).is("(")) {
            throw SqlError.parse("partition table, insert must provide ColumnList");
        }
        int column = -1;
        int count = 0;
        for (at++; at < tokens.size() && !tokens.get(at).is(")"); at++) {
            if (tokens.get(at).is(",")) {
                count++;
            } else if (tokens.get(at).upper.equalsIgnoreCase(table.rule.column)) {
                column = count;
            }
        }
        if (column < 0) {
            throw SqlError.parse("bad insert sql (sharding column:" + table.rule.column.toUpperCase(Locale.ROOT)
                    + " not provided," + sql);
        }
        if (++at >= tokens.size() || !tokens.get(at).upper.startsWith("VALUE")) {
            throw SqlError.parse("TODO:insert into .... select .... not supported!");
        }
        String head = sql.substring(0, tokens.get(at).end) + " ";
        Map<String, String> rows = new LinkedHashMap<>();
        for (at++; at < tokens.size() && tokens.get(at).is("("); at++) {
            int start = tokens.get(at).start;
            int depth = tokens.get(at).depth;
            int place = 0;
            String node = null;
            for (at++; at < tokens.size() && !(tokens.get(at).is(")") && tokens.get(at).depth == depth); at++) {
                if (tokens.get(at).depth == depth + 1 && tokens.get(at).is(",")) {
                    place++;
                } else if (place == column && node == null) {
                    node = node(table, literal(tokens, at));
                }
            }
            if (node == null || at >= tokens.size()) {
                throw SqlError.parse("bad insert sql " + sql);
            }
            rows.merge(node, sql.substring(start, tokens.get(at).end), (all, row) -> all + "," + row);
            if (at + 1 >= tokens.size() || !tokens.get(at + 1).is(",")) {
                break;
            }
            at++;
        }
        String tail = at < tokens.size() ? sql.substring(tokens.get(at).end) : "";
        Routing routing = new Routing(schema, Answers.SUM, List.of(), sql);
        rows.forEach((node, values) -> routing.statements.put(node, head + values + tail));
        return routing;
    }

    /** The nodes that `column = literal` or `column IN (literals)` leaves, joined to all else by AND; or all. */
    private static Set<String> chosen(List<Token> tokens, Table table) throws SqlError {
        Set<String> all = new LinkedHashSet<>(table.nodes);
        int where = -1;
        for (int i = 0; i < tokens.size(); i++) {
            Token token = tokens.get(i);
            if (token.is("UNION") || where >= 0 && (token.is("OR") || token.is("XOR") || token.is("|")
                    || token.is("NOT") || token.is("BETWEEN") || token.is("SELECT") || token.is("!"))) {
                return all;
            }
            if (token.is("WHERE") && token.depth == 0) {
                where = i;
            }
        }
        for (int i = where; where >= 0 && i + 3 < tokens.size() && !AFTER_WHERE.contains(tokens.get(i).upper); i++) {
            if (!(tokens.get(i).is("WHERE") || tokens.get(i).is("AND")) || tokens.get(i).depth != 0) {
                continue;
            }
            int at = tokens.get(i + 2).is(".") ? i + 3 : i + 1;
            if (at + 2 >= tokens.size() || !tokens.get(at).upper.equalsIgnoreCase(table.rule.column)) {
                continue;
            }
            Set<String> left = new LinkedHashSet<>();
            String value = literal(tokens, at + 2);
            int after = at + 3 + (tokens.get(at + 2).is("-") ? 1 : 0);
            boolean ends = after >= tokens.size() || tokens.get(after).is("AND")
                    || AFTER_WHERE.contains(tokens.get(after).upper);
            if (tokens.get(at + 1).is("=") && value != null && ends) {
                return Set.of(node(table, value));
            }
            if (tokens.get(at + 1).is("IN") && tokens.get(at + 2).is("(")) {
                for (at += 3; at + 1 < tokens.size() && literal(tokens, at) != null; at += 2) {
                    left.add(node(table, literal(tokens, at)));
                    at += tokens.get(at).is("-") ? 1 : 0;
                    if (tokens.get(at + 1).is(")")) {
                        return left;
                    }
                }
            }
        }
        return all;
    }

    private static Answers merged(List<Token> tokens) throws SqlError {
        boolean count = tokens.size() > 3 && tokens.get(1).is("COUNT") && tokens.get(2).is("(");
        boolean others = false;
        for (int i = count ? 2 : 1; i < tokens.size(); i++) {
            others |= tokens.get(i).plain && NEED_MERGING.contains(tokens.get(i).upper)
                    || count && tokens.get(i).is(",") && tokens.get(i).depth == 0;
        }
        if (others) {
            throw SqlError.standIn("it does not merge what several data nodes answer (ORDER BY, GROUP BY, LIMIT, "
                    + "DISTINCT, aggregates): name the sharding column in WHERE, or take a real Mycat");
        }
        return count ? Answers.COUNT : Answers.ROWS;
    }

    private static String node(Table table, String value) throws SqlError {
        if (value == null) {
            throw SqlError.standIn("it needs a literal for the sharding column " + table.rule.column);
        }
        return table.nodes.get(table.rule.place(value));
    }

    /** A number or a text without escapes. */
    private static String literal(List<Token> tokens, int at) {
        if (at >= tokens.size()) {
            return null;
        }
        String text = tokens.get(at).text;
        if (tokens.get(at).is("-") && at + 1 < tokens.size() && tokens.get(at + 1).text.matches("[0-9]+")) {
            return "-" + tokens.get(at + 1).text;
        }
        boolean closed = at + 1 >= tokens.size() || tokens.get(at + 1).text.matches("[,)]|(?i)and|order|group|limit|for|on");
        if (tokens.get(at).plain && text.matches("[0-9]+") && closed) {
            return text;
        }
        return text.matches("'[^'\\\\]*'") && closed ? text.substring(1, text.length() - 1) : null;
    }

    private static String limited(Schema schema, String first, List<Token> tokens, String sql) {
        boolean limits = tokens.stream().anyMatch(token -> token.is("LIMIT") || token.is("FOR") || token.is("LOCK"));
        if (schema.limit < 0 || limits || !first.equals("SELECT") || names(tokens).isEmpty()) {
            return sql;
        }
        return sql.substring(0, tokens.get(tokens.size() - 1).end) + " LIMIT " + schema.limit;
    }

    private static String withoutSchema(String sql, List<Token> tokens, String schema) {
        StringBuilder text = new StringBuilder();
        int from = 0;
        for (int i = 0; i + 2 < tokens.size(); i++) {
            boolean first = i == 0 || !tokens.get(i - 1).is(".");
            if (first && tokens.get(i).text.equals(schema) && tokens.get(i + 1).is(".")) {
                text.append(sql, from, tokens.get(i).start);
                from = tokens.get(i + 1).end;
            }
        }
        return text.append(sql.substring(from)).toString();
    }

    /** Every table that a statement names, as {schema or null, table}. */
    static List<String[]> names(List<Token> tokens) {
        List<String[]> found = new ArrayList<>();
        String first = tokens.get(0).upper;
        boolean ddl = DDL.contains(first);
        for (int i = 0; i < tokens.size(); i++) {
            Token token = tokens.get(i);
            boolean starts = token.is("FROM") && !(first.equals("SHOW") && !columns(tokens)) || token.is("JOIN")
                    || token.is("INTO") || token.is("TABLE") && (ddl || first.equals("SHOW"))
                    || token.is("ON") && ddl && tokens.stream().limit(4).anyMatch(word -> word.is("INDEX"))
                    || i == 0 && (token.is("UPDATE") || token.is("INSERT") || token.is("REPLACE")
                            || token.is("TRUNCATE") || token.upper.startsWith("DESC") || token.is("EXPLAIN"));
            if (!starts || !token.plain || token.is("FROM") && ofFunction(tokens, i)) {
                continue;
            }
            boolean list = token.is("FROM") || token.is("UPDATE") || token.is("TABLE") && first.equals("DROP");
            int at = i + 1;
            do {
                while (at < tokens.size() && tokens.get(at).plain && BEFORE_NAMES.contains(tokens.get(at).upper)) {
                    at++;
                }
                if (at >= tokens.size() || !tokens.get(at).upper.matches("[\\w$\\x80-\\xff]+")
                        || tokens.get(at).plain && READS.contains(tokens.get(at).upper)) {
                    break;
                }
                boolean two = at + 2 < tokens.size() && tokens.get(at + 1).is(".");
                found.add(new String[] {two ? tokens.get(at).text : null, tokens.get(two ? at + 2 : at).text});
                at += two ? 3 : 1;
                // An alias.
                at += at < tokens.size() && tokens.get(at).is("AS") ? 2 : 0;
                at += at + 1 < tokens.size() && !tokens.get(at).is(",") && tokens.get(at + 1).is(",") ? 1 : 0;
            } while (list && at < tokens.size() && tokens.get(at++).is(","));
            i = Math.max(i, Math.min(at, tokens.size()) - 2);
        }
        return found;
    }

    private static boolean columns(List<Token> tokens) {
        return tokens.stream().limit(3).anyMatch(
                word -> Set.of("COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS").contains(word.upper));
    }

    private static boolean ofFunction(List<Token> tokens, int from) {
        for (int i = from; i > 0; i--) {
            if (tokens.get(i).is("(") && tokens.get(i).depth == tokens.get(from).depth - 1) {
                return FROM_FUNCTIONS.contains(tokens.get(i - 1).upper);
            }
        }
        return false;
    }
}

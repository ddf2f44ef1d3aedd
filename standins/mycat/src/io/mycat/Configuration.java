package io.mycat;

import java.io.IOException;
import java.io.InputStream;
import java.io.StringReader;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import javax.xml.parsers.DocumentBuilder;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.parsers.ParserConfigurationException;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.xml.sax.ErrorHandler;
import org.xml.sax.InputSource;
import org.xml.sax.SAXException;
import org.xml.sax.SAXParseException;

/** server.xml, schema.xml and rule.xml of the class path, read once; never changed afterwards. */
final class Configuration {
    final Map<String, String> system;
    final Map<String, User> users = new LinkedHashMap<>();
    final Map<String, Schema> schemas = new LinkedHashMap<>();
    final Map<String, Backend.DataNode> nodes = new LinkedHashMap<>();
    final Map<String, Backend.DataHost> hosts = new LinkedHashMap<>();

    /** The files contradict themselves, each other, or what the stand-in covers. */
    static final class Refused extends RuntimeException {
        private static final long serialVersionUID = 1;

        Refused(String text) {
            super(text);
        }
    }

    static final class User {
        String name;
        String password;
        List<String> schemas;
        String defaultSchema;
        boolean readOnly;
        /** By schema, and by schema.table: digits for insert, update, select, delete. */
        final Map<String, String> rights = new LinkedHashMap<>();

        boolean may(int right, String schema, String table) {
            String digits = rights.getOrDefault(schema + "." + table.toUpperCase(Locale.ROOT), rights.get(schema));
            return digits == null || right < digits.length() && digits.charAt(right) != '0';
        }
    }

    static final class Schema {
        String name;
        String node;
        long limit;
        /** By their names in upper case. */
        final Map<String, Table> tables = new LinkedHashMap<>();
    }

    static final class Table {
        String name;
        List<String> nodes;
        boolean global;
        Rule rule;
    }

    static final class Rule {
        String column;
        String function;
        /** 0: a function that the stand-in does not cover. */
        int count;

        int place(String value) {
            try {
                return new BigInteger(value).abs().mod(BigInteger.valueOf(count)).intValue();
            } catch (NumberFormatException words) {
                return (int) (Math.abs((long) value.hashCode()) % count);
            }
        }
    }

    /** Throws Refused with the reason. */
    Configuration() {
        Element server = read("server.xml", "mycat:server", "system firewall user cluster");
        Element schema = read("schema.xml", "mycat:schema", "schema dataNode dataHost");
        Element rule = read("rule.xml", "mycat:rule", "tableRule function");
        if (!children(server, "firewall").isEmpty() || !children(server, "cluster").isEmpty()) {
            throw new Refused("server.xml: the stand-in for Mycat does not cover firewall and cluster");
        }
        List<Element> systems = children(server, "system");
        system = systems.isEmpty() ? Map.of() : properties(systems.get(0));
        long period = Long.parseLong(system.getOrDefault("dataNodeHeartbeatPeriod", "10000"));
        for (Element element : children(schema, "dataHost")) {
            Backend.DataHost host = host(element, period);
            once(hosts.put(host.name, host), "dataHost name " + host.name + "duplicated!");
        }
        for (Element element : children(schema, "dataNode")) {
            known(element, "name dataHost database");
            String name = element.getAttribute("name");
            Backend.DataHost host = hosts.get(element.getAttribute("dataHost"));
            if (host == null) {
                throw new Refused("dataNode " + name + " reference dataHost:" + element.getAttribute("dataHost")
                        + " not exists!");
            }
            plain(name);
            once(nodes.put(name, new Backend.DataNode(name, host, element.getAttribute("database"))),
                    "dataNode " + name + " duplicated!");
        }
        Map<String, Rule> rules = rules(rule);
        for (Element element : children(schema, "schema")) {
            Schema made = schema(element, rules);
            once(schemas.put(made.name, made), "schema " + made.name + " duplicated!");
        }
        for (Element element : children(server, "user")) {
            User user = user(element);
            once(users.put(user.name, user), "user " + user.name + " duplicated!");
        }
        if (users.isEmpty()) {
            throw new Refused("server.xml: user is missing");
        }
    }

    /** This one with the data nodes and hosts of another: what `reload @@config` makes. */
    Configuration(Configuration fresh, Configuration running) {
        system = running.system;
        users.putAll(fresh.users);
        schemas.putAll(fresh.schemas);
        nodes.putAll(running.nodes);
        hosts.putAll(running.hosts);
    }

    private User user(Element element) {
        known(element, "name defaultAccount");
        Map<String, String> given = properties(element);
        User user = new User();
        user.name = element.getAttribute("name");
        user.password = given.getOrDefault("password", "");
        if (given.getOrDefault("usingDecrypt", "0").equals("1")) {
            throw new Refused("user " + user.name + ": the stand-in for Mycat does not cover usingDecrypt");
        }
        user.schemas = list(given.getOrDefault("schemas", ""));
        user.defaultSchema = given.get("defaultSchema");
        user.readOnly = given.getOrDefault("readOnly", "false").equalsIgnoreCase("true");
        if (user.schemas.isEmpty()) {
            throw new Refused("SelfCheck### user " + user.name + "refered schemas is empty!");
        }
        for (String name : user.schemas) {
            if (!schemas.containsKey(name)) {
                throw new Refused("SelfCheck###  schema " + name + " refered by user " + user.name + " is not exist!");
            }
        }
        for (Element privileges : children(element, "privileges")) {
            if (!privileges.getAttribute("check").equals("true")) {
                continue;
            }
            for (Element schema : children(privileges, "schema")) {
                String name = schema.getAttribute("name");
                user.rights.put(name, schema.getAttribute("dml"));
                for (Element table : children(schema, "table")) {
                    String key = name + "." + table.getAttribute("name").toUpperCase(Locale.ROOT);
                    user.rights.put(key, table.getAttribute("dml"));
                }
            }
        }
        return user;
    }

    private Schema schema(Element element, Map<String, Rule> rules) {
        known(element, "name checkSQLschema dataNode randomDataNode sqlMaxLimit");
        Schema schema = new Schema();
        schema.name = element.getAttribute("name");
        String limit = element.getAttribute("sqlMaxLimit");
        schema.limit = limit.isEmpty() ? -1 : Long.parseLong(limit);
        schema.node = element.hasAttribute("dataNode") ? node(element.getAttribute("dataNode")) : null;
        for (Element child : children(element, "table")) {
            known(child, "name dataNode rule ruleRequired primaryKey needAddLimit type");
            Table table = new Table();
            table.name = child.getAttribute("name");
            table.nodes = list(child.getAttribute("dataNode"));
            table.nodes.forEach(this::node);
            table.global = child.getAttribute("type").equalsIgnoreCase("global");
            if (child.hasAttribute("rule")) {
                table.rule = rules.get(child.getAttribute("rule"));
                if (table.rule == null) {
                    throw new Refused("rule " + child.getAttribute("rule") + " is not found!");
                }
                if (table.rule.count > table.nodes.size()) {
                    throw new Refused("Illegal table conf : table [ " + table.name + " ] rule function [ "
                            + table.rule.function + " ] partition size : " + table.rule.count
                            + " > table datanode size : " + table.nodes.size() + ", please make sure table datanode "
                            + "size = function partition size");
                }
            }
            for (String name : list(table.name)) {
                once(schema.tables.put(name.toUpperCase(Locale.ROOT), table), "table " + name + " duplicated!");
            }
        }
        if (schema.node == null && schema.tables.isEmpty()) {
            throw new Refused("schema " + schema.name + " didn't config tables,so you must set dataNode property!");
        }
        return schema;
    }

    private String node(String name) {
        if (!nodes.containsKey(name)) {
            throw new Refused("dataNode '" + name + "' is not found!");
        }
        return name;
    }

    /** The sharding functions that Mycat comes with; a statement that needs another than the first is refused. */
    private static final Set<String> FUNCTIONS = Set.of("PartitionByMod", "AutoPartitionByLong", "LatestMonthPartion",
            "PartitionByCRC32PreSlot", "PartitionByDate", "PartitionByFileMap", "PartitionByHashMod",
            "PartitionByHotDate", "PartitionByJumpConsistentHash", "PartitionByLong", "PartitionByMonth",
            "PartitionByMonthAndHistory", "PartitionByMurmurHash", "PartitionByPattern", "PartitionByPrefixPattern",
            "PartitionByRangeDateHash", "PartitionByRangeMod", "PartitionByString", "PartitionDirectBySubString");

    private static Map<String, Rule> rules(Element root) {
        Map<String, Element> functions = new LinkedHashMap<>();
        for (Element element : children(root, "function")) {
            known(element, "name class");
            if (!FUNCTIONS.contains(element.getAttribute("class").replace("io.mycat.route.function.", ""))) {
                throw new Refused("java.lang.ClassNotFoundException: " + element.getAttribute("class"));
            }
            once(functions.put(element.getAttribute("name"), element),
                    "rule function " + element.getAttribute("name") + " duplicated!");
        }
        Map<String, Rule> rules = new LinkedHashMap<>();
        for (Element element : children(root, "tableRule")) {
            Element inner = children(element, "rule").get(0);
            Rule rule = new Rule();
            rule.column = children(inner, "columns").get(0).getTextContent().trim();
            rule.function = children(inner, "algorithm").get(0).getTextContent().trim();
            Element function = functions.get(rule.function);
            if (function == null) {
                throw new Refused("can't find function of name :" + rule.function);
            }
            if (function.getAttribute("class").equals("io.mycat.route.function.PartitionByMod")) {
                rule.count = Integer.parseInt(properties(function).getOrDefault("count", "0"));
            }
            String name = element.getAttribute("name");
            once(rules.put(name, rule), "table rule " + name + " duplicated!");
        }
        return rules;
    }

    private static Backend.DataHost host(Element element, long period) {
        known(element, "name maxCon minCon balance balanceType maxRetryCount writeType switchType notSwitch "
                + "slaveThreshold tempReadHostAvailable dbType dbDriver");
        for (String required : new String[] {"name", "maxCon", "minCon", "balance", "dbType", "dbDriver"}) {
            if (!element.hasAttribute(required)) {
                throw new Refused("schema.xml: Attribute \"" + required + "\" is required for element \"dataHost\"");
            }
        }
        List<Backend.Writer> writers = new ArrayList<>();
        for (Element child : children(element, "writeHost")) {
            writers.add(writer(child));
            children(child, "readHost").forEach(Configuration::writer);
        }
        List<Element> heartbeats = children(element, "heartbeat");
        if (writers.isEmpty() || heartbeats.isEmpty()) {
            throw new Refused("schema.xml: The content of element type \"dataHost\" is incomplete, it must match "
                    + "\"(heartbeat,connectionInitSql*,writeHost+)\".");
        }
        String type = element.getAttribute("switchType");
        return new Backend.DataHost(element.getAttribute("name"), writers,
                Integer.parseInt(element.getAttribute("maxCon")), !type.equals("-1"),
                heartbeats.get(0).getTextContent().trim(), period);
    }

    private static Backend.Writer writer(Element element) {
        known(element, "host url user password usingDecrypt checkAlive weight");
        String[] place = element.getAttribute("url").split(":");
        if (place.length != 2 || element.getAttribute("usingDecrypt").equals("1")) {
            throw new Refused("host " + element.getAttribute("host")
                    + ": the stand-in for Mycat covers url=\"ADDRESS:PORT\" without usingDecrypt");
        }
        return new Backend.Writer(element.getAttribute("host"), place[0], Integer.parseInt(place[1]),
                element.getAttribute("user"), element.getAttribute("password"));
    }

    // -- XML ------------------------------------------------------------------------------------------------------

    static InputStream resource(String name) {
        return Configuration.class.getResourceAsStream("/" + name);
    }

    /** The root element, with its children of the kinds given, in this order. */
    private static Element read(String name, String root, String order) {
        try (InputStream in = resource(name)) {
            if (in == null) {
                throw new Refused(name + " is not on the class path");
            }
            DocumentBuilder builder = DocumentBuilderFactory.newInstance().newDocumentBuilder();
            builder.setEntityResolver((publicId, systemId) -> new InputSource(new StringReader("")));
            builder.setErrorHandler(new Strict());
            Element element = builder.parse(in).getDocumentElement();
            List<String> kinds = Arrays.asList(order.split(" "));
            int last = 0;
            for (Element child : children(element, null)) {
                int place = kinds.indexOf(child.getTagName());
                if (place < last) {
                    throw new Refused(name + ": The content of element type \"" + root + "\" must match \""
                            + order.replace(" ", "*,") + "*\": " + child.getTagName());
                }
                last = place;
            }
            if (!element.getTagName().equals(root)) {
                throw new Refused(name + ": the root is " + element.getTagName() + " and not " + root);
            }
            return element;
        } catch (SAXException | IOException | ParserConfigurationException error) {
            throw new Refused(name + ": " + error);
        }
    }

    private static final class Strict implements ErrorHandler {
        @Override
        public void warning(SAXParseException words) {
            // The declaration without content that stands for the DTD.
        }

        @Override
        public void error(SAXParseException words) throws SAXException {
            throw words;
        }

        @Override
        public void fatalError(SAXParseException words) throws SAXException {
            throw words;
        }
    }

    private static List<Element> children(Element parent, String kind) {
        List<Element> found = new ArrayList<>();
        for (Node node = parent.getFirstChild(); node != null; node = node.getNextSibling()) {
            if (node instanceof Element && (kind == null || ((Element) node).getTagName().equals(kind))) {
                found.add((Element) node);
            }
        }
        return found;
    }

    private static Map<String, String> properties(Element parent) {
        return children(parent, "property").stream().collect(Collectors.toMap(
                element -> element.getAttribute("name"), element -> element.getTextContent().trim(), (a, b) -> b));
    }

    private static void known(Element element, String names) {
        List<String> all = Arrays.asList(names.split(" "));
        for (int i = 0; i < element.getAttributes().getLength(); i++) {
            String name = element.getAttributes().item(i).getNodeName();
            if (!all.contains(name)) {
                throw new Refused("Attribute \"" + name + "\" of element type \"" + element.getTagName()
                        + "\" is not one that the stand-in for Mycat covers");
            }
        }
    }

    private static void plain(String name) {
        if (name.contains("$") || name.contains(",")) {
            throw new Refused("dataNode " + name + ": the stand-in for Mycat does not cover several in one name");
        }
    }

    private static void once(Object before, String words) {
        if (before != null) {
            throw new Refused(words);
        }
    }

    private static List<String> list(String text) {
        return Arrays.stream(text.split(",")).map(String::trim).filter(word -> !word.isEmpty())
                .collect(Collectors.toList());
    }
}

// ClickHouse's driver for JDBC, second version: what it inserts is counted and read back.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;

public class Main {
    static final Map<String, Map<String, String>> WAYS = new LinkedHashMap<>();

    static {
        WAYS.put("none", Map.of("compress", "false", "decompress", "false"));
        WAYS.put("framed", Map.of("compress", "true", "decompress", "true"));
        WAYS.put("http_answers", Map.of("compress", "true", "decompress", "false", "client.use_http_compression", "true"));
        WAYS.put("http", Map.of("compress", "true", "decompress", "true", "client.use_http_compression", "true"));
    }

    // The driver's LZ4 for HTTP takes minutes for more: its time grows with the square of the size.
    static final int HTTP_ROWS_MAX = 5000;

    static Connection open(String user, String password, Map<String, String> way) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", user);
        properties.setProperty("password", password);
        properties.putAll(way);
        String url = "jdbc:clickhouse://127.0.0.1:" + System.getenv("CLICKHOUSE_PORT") + "/chalkstream";
        return DriverManager.getConnection(url, properties);
    }

    static void check(String name, int rows) throws SQLException {
        String table = "java_" + name + "_" + rows;
        try (Connection admin = open("admin", System.getenv("ADMIN_PASSWORD"), WAYS.get(name));
                Statement statement = admin.createStatement()) {
            statement.execute("CREATE TABLE " + table + " (id UInt64, text String) ENGINE = MergeTree ORDER BY id");
            try (PreparedStatement insert = admin.prepareStatement("INSERT INTO " + table + " (id, text) VALUES (?, ?)")) {
                for (int id = 0; id < rows; id++) {
                    insert.setLong(1, id);
                    insert.setString(2, "row " + id);
                    insert.addBatch();
                }
                insert.executeBatch();
            }
            long count;
            try (ResultSet counted = statement.executeQuery("SELECT count(), uniqExact(id) FROM " + table)) {
                counted.next();
                count = counted.getLong(1) == counted.getLong(2) ? counted.getLong(1) : -1;
            }
            long read = 0;
            long sum = 0;
            try (ResultSet result = statement.executeQuery("SELECT id, text FROM " + table)) {
                while (result.next()) {
                    read += 1;
                    sum += result.getLong(1);
                }
            }
            if (count != rows || read != rows || sum != (long) rows * (rows - 1) / 2) {
                throw new IllegalStateException(table + ": of " + rows + " rows " + count + " are stored and " + read + " came back");
            }
            statement.execute("DROP TABLE " + table);
        }
    }

    public static void main(String[] arguments) throws SQLException {
        for (String name : WAYS.keySet()) {
            try (Connection reader = open("reader", System.getenv("READER_PASSWORD"), WAYS.get(name));
                    ResultSet result = reader.createStatement().executeQuery("SELECT count() >= 0, 'é\\n' FROM samples")) {
                if (!result.next() || result.getInt(1) != 1 || !result.getString(2).equals("é\n")) {
                    throw new IllegalStateException("a reader does not read");
                }
            }
            for (String rows : System.getenv("ROWS").split(",")) {
                int count = Integer.parseInt(rows);
                if (!name.equals("http") || count <= HTTP_ROWS_MAX) {
                    check(name, count);
                }
            }
        }
        check("http", HTTP_ROWS_MAX);
        System.out.println("all good");
    }
}

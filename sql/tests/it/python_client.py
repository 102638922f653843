"""Python's official client against the embedded endpoint, as an analyst and an application use it."""

import os

import clickhouse_connect
from clickhouse_connect.driver.exceptions import DatabaseError

PORT = int(os.environ["CLICKHOUSE_PORT"])
AWKWARD = [
    "",
    "plain",
    "two\n\nlines\n\n\nand more\r\n\r\n",
    "a NUL \0 inside\0",
    "emoji 🧑‍🏫 and ünïcode 数学",
    "quotes ' \" ` \\ \\n \t tab ; -- /* $$",
]


def client(user, password, **more):
    return clickhouse_connect.get_client(
        host="127.0.0.1", port=PORT, username=user, password=password, **more
    )


def check_admin(compress):
    name = f"connect_{str(compress).lower()}"
    admin = client("admin", os.environ["ADMIN_PASSWORD"], database="chalkstream", compress=compress)
    admin.command(f"CREATE TABLE {name} (id UInt64, text String, note Nullable(String), list Array(String)) ENGINE = MergeTree ORDER BY id")
    rows = [[i, text, text if i % 2 else None, [text, text]] for i, text in enumerate(AWKWARD)]
    written = admin.insert(name, rows, column_names=["id", "text", "note", "list"])
    assert written.written_rows == len(rows), written.summary
    result = admin.query(f"SELECT id, text, note, list FROM {name} ORDER BY id")
    assert [list(row) for row in result.result_rows] == rows, result.result_rows
    csv = "\n".join(f'{100 + i},"{text.replace(chr(34), chr(34) * 2)}"' for i, text in enumerate(AWKWARD))
    admin.raw_insert(name, column_names=["id", "text"], insert_block=csv, fmt="CSV")
    stored = admin.query(f"SELECT text FROM {name} WHERE id >= 100 ORDER BY id").result_columns[0]
    assert list(stored) == AWKWARD, stored
    found = admin.query(
        f"SELECT id FROM {name} WHERE text = {{text:String}} ORDER BY id", parameters={"text": AWKWARD[2]}
    )
    assert [row[0] for row in found.result_rows] == [2, 102], found.result_rows
    with admin.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
        assert sum(len(block) for block in stream) == 1_000_000
    assert admin.query(f"SELECT * FROM {name} LIMIT 0").column_names == ("id", "text", "note", "list")
    admin.command(f"DROP TABLE {name}")
    admin.close()


def check_reader(**who):
    reader = clickhouse_connect.get_client(host="127.0.0.1", port=PORT, **who)
    assert reader.query("SELECT count() >= 0 FROM samples").result_rows == [(1,)]
    assert reader.command("SELECT 41 + 1") == 42
    assert "samples" in reader.command("SHOW TABLES")
    assert reader.ping()
    assert reader.query("SELECT {x:String}", parameters={"x": "é\n🙂"}).result_rows == [("é\n🙂",)]
    for attack in ["SELECT * FROM secrets_raw", "SELECT file('/etc/hostname')", "DROP TABLE samples_raw"]:
        try:
            reader.command(attack)
        except DatabaseError as error:
            assert error.code == 497, error
        else:
            raise AssertionError(f"{attack} was allowed")
    reader.close()


def check_rows(compress, rows):
    """No row of an insert is lost, however many frames it comes in."""
    name = f"connect_rows_{str(compress).lower()}_{rows}"
    admin = client("admin", os.environ["ADMIN_PASSWORD"], database="chalkstream", compress=compress)
    admin.command(f"CREATE TABLE {name} (id UInt64, text String) ENGINE = MergeTree ORDER BY id")
    columns = [list(range(rows)), [f"row {id}" for id in range(rows)]]
    admin.insert(name, columns, column_names=["id", "text"], column_oriented=True)
    stored = admin.query(f"SELECT count(), uniqExact(id) FROM {name}").result_rows
    assert stored == [(rows, rows)], f"{name}: {stored}"
    read = admin.query(f"SELECT id, text FROM {name}").result_columns
    assert sum(read[0]) == rows * (rows - 1) // 2 and len(read[1]) == rows, name
    admin.command(f"DROP TABLE {name}")
    admin.close()


for compress in [False, "lz4", "zstd", "gzip", "br", True]:
    check_admin(compress)
    for rows in map(int, os.environ["ROWS"].split(",")):
        check_rows(compress, rows)
check_reader(username="reader", password=os.environ["READER_PASSWORD"])
check_reader()
check_reader(username="default", database="chalkstream")
try:
    client("admin", "wrong")
except DatabaseError as error:
    assert error.code == 516, error
else:
    raise AssertionError("a wrong password was taken")
print("all good")

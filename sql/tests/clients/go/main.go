// ClickHouse's client for Go over HTTP: what it inserts is counted and read back.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

var methods = map[string]clickhouse.CompressionMethod{
	"none": clickhouse.CompressionNone, "lz4": clickhouse.CompressionLZ4, "lz4hc": clickhouse.CompressionLZ4HC,
	"zstd": clickhouse.CompressionZSTD, "gzip": clickhouse.CompressionGZIP,
	"deflate": clickhouse.CompressionDeflate, "br": clickhouse.CompressionBrotli,
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func open(user, password string, method clickhouse.CompressionMethod) driver.Conn {
	connection, err := clickhouse.Open(&clickhouse.Options{
		Protocol:    clickhouse.HTTP,
		Addr:        []string{"127.0.0.1:" + os.Getenv("CLICKHOUSE_PORT")},
		Auth:        clickhouse.Auth{Database: "chalkstream", Username: user, Password: password},
		Compression: &clickhouse.Compression{Method: method, Level: 3},
	})
	must(err)
	return connection
}

func check(name string, rows uint64) {
	ctx := context.Background()
	admin := open("admin", os.Getenv("ADMIN_PASSWORD"), methods[name])
	defer admin.Close()
	table := fmt.Sprintf("go_%s_%d", name, rows)
	must(admin.Exec(ctx, "CREATE TABLE "+table+" (id UInt64, text String) ENGINE = MergeTree ORDER BY id"))
	batch, err := admin.PrepareBatch(ctx, "INSERT INTO "+table)
	must(err)
	for id := uint64(0); id < rows; id++ {
		must(batch.Append(id, "row "+strconv.FormatUint(id, 10)))
	}
	must(batch.Send())
	var count, distinct uint64
	must(admin.QueryRow(ctx, "SELECT count(), uniqExact(id) FROM "+table).Scan(&count, &distinct))
	result, err := admin.Query(ctx, "SELECT id, text FROM "+table)
	must(err)
	var read, sum uint64
	for result.Next() {
		var id uint64
		var text string
		must(result.Scan(&id, &text))
		read++
		sum += id
	}
	must(result.Err())
	if count != rows || distinct != rows || read != rows || sum != rows*(rows-1)/2 {
		panic(fmt.Sprintf("%s: of %d rows %d are stored and %d came back", table, rows, count, read))
	}
	must(admin.Exec(ctx, "DROP TABLE "+table))
}

func checkReader(password string) {
	ctx := context.Background()
	for name, method := range methods {
		reader := open("reader", password, method)
		must(reader.Ping(ctx))
		var list []string
		var null *uint8
		var low, enum string
		var pairs map[string]uint16
		var at time.Time
		var tuple []any
		must(reader.QueryRow(ctx, `SELECT ['a', 'b'], CAST(NULL AS Nullable(UInt8)), toLowCardinality('low'),
			CAST('x' AS Enum8('x' = 1, '(y' = 2)), map('k', toUInt16(7)), toDateTime64('2026-01-02 03:04:05.678', 3, 'UTC'),
			tuple('t', toUInt8(1))`).Scan(&list, &null, &low, &enum, &pairs, &at, &tuple))
		if len(list) != 2 || null != nil || low != "low" || enum != "x" || pairs["k"] != 7 || at.UnixMilli() != 1767323045678 || len(tuple) != 2 {
			panic(fmt.Sprint(name, list, null, low, enum, pairs, at, tuple))
		}
		var empty uint64
		must(reader.QueryRow(ctx, "SELECT count() FROM samples WHERE 0").Scan(&empty))
		err := reader.QueryRow(ctx, "SELECT secret FROM secrets_raw").Scan(&low)
		if err == nil || !strings.Contains(err.Error(), "497") {
			panic(fmt.Sprint("a reader read what is private: ", err))
		}
		must(reader.Close())
	}
}

func main() {
	checkReader(os.Getenv("READER_PASSWORD"))
	checkReader("")
	for _, rows := range strings.Split(os.Getenv("ROWS"), ",") {
		count, err := strconv.ParseUint(rows, 10, 64)
		must(err)
		for name := range methods {
			check(name, count)
		}
	}
	fmt.Println("all good")
}

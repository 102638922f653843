// ClickHouse's client for JavaScript: what it inserts is counted and read back.
import { createRequire } from 'node:module'
import { Readable } from 'node:stream'

// The packages lie in the cache, not beside this file.
const { createClient } = createRequire(process.env.NODE_PACKAGES + '/')('@clickhouse/client')

function open(username, password, compressed) {
  return createClient({
    url: `http://127.0.0.1:${process.env.CLICKHOUSE_PORT}`,
    username,
    password,
    database: 'chalkstream',
    request_timeout: 120_000,
    compression: { request: compressed, response: compressed },
  })
}

function* lines(rows) {
  for (let from = 0; from < rows; from += 1000) {
    let text = ''
    for (let id = from; id < Math.min(from + 1000, rows); id++) text += `${id},"row ${id}"\n`
    yield text
  }
}

async function check(compressed, rows) {
  const admin = open('admin', process.env.ADMIN_PASSWORD, compressed)
  const table = `node_${compressed}_${rows}`
  await admin.command({ query: `CREATE TABLE ${table} (id UInt64, text String) ENGINE = MergeTree ORDER BY id` })
  await admin.insert({ table, values: Readable.from(lines(rows), { objectMode: false }), format: 'CSV' })
  const counted = await admin.query({ query: `SELECT count() AS c, uniqExact(id) AS u FROM ${table}`, format: 'JSONEachRow' })
  const [{ c, u }] = await counted.json()
  const result = await admin.query({ query: `SELECT id, text FROM ${table}`, format: 'JSONCompactEachRow' })
  let read = 0
  let sum = 0
  for await (const some of result.stream()) {
    for (const row of some) {
      read += 1
      sum += Number(row.json()[0])
    }
  }
  if (Number(c) !== rows || Number(u) !== rows || read !== rows || sum !== (rows * (rows - 1)) / 2) {
    throw new Error(`${table}: of ${rows} rows ${c} are stored and ${read} came back`)
  }
  await admin.command({ query: `DROP TABLE ${table}` })
  await admin.close()
}

for (const compressed of [false, true]) {
  const reader = open('reader', process.env.READER_PASSWORD, compressed)
  const result = await reader.query({ query: 'SELECT count() >= 0 AS ok FROM samples', format: 'JSON' })
  if ((await result.json()).data[0].ok !== 1) throw new Error('a reader does not read')
  await reader.close()
  for (const rows of process.env.ROWS.split(',').map(Number)) await check(compressed, rows)
}
console.log('all good')

"""ClickHouse: migrations, client, writer, and the embedded one-machine server.

Stores facts and answers SQL; never decides anything, and nothing here knows Kafka. The server is
`server` (HTTP), `queries`, `access`, `encodings`, `answers` around `engine` (chDB) and `statement`;
`client`, `writer` and `migrations` work with it and with a ClickHouse cluster alike.
"""

"""The embedded engine's configuration: what it may use and what its clients may do."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from sluice.settings import Settings

_MIB = 2**20
# Caches fit one machine that also runs a broker and workers.
_SERVER = """<clickhouse>
  <max_server_memory_usage>{memory}</max_server_memory_usage>
  <mark_cache_size>{cache}</mark_cache_size>
  <primary_index_cache_size>{cache}</primary_index_cache_size>
  <query_condition_cache_size>{small_cache}</query_condition_cache_size>
  <users_config>{users}</users_config>
</clickhouse>
"""
# async_insert = 0: an acknowledged insert is in the table, not in a buffer of the process.
# Clients are trusted with tables and views; files, networks and processes stay out of reach.
_USERS = """<clickhouse>
  <profiles>
    <default>
      <async_insert>0</async_insert>
      <wait_for_async_insert>1</wait_for_async_insert>
      <max_memory_usage>{query_memory}</max_memory_usage>
      <max_bytes_before_external_group_by>{spill}</max_bytes_before_external_group_by>
      <max_bytes_before_external_sort>{spill}</max_bytes_before_external_sort>
      <max_result_bytes>{result}</max_result_bytes>
      <result_overflow_mode>throw</result_overflow_mode>
      <allow_introspection_functions>0</allow_introspection_functions>
      <implicit_select>0</implicit_select>
      <log_queries>0</log_queries>
    </default>
  </profiles>
  <users>
    <default>
      <password></password>
      <networks><ip>::/0</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP, TRUNCATE, OPTIMIZE, CHECK, KILL QUERY, SYSTEM MERGES, SYSTEM DROP CACHE ON *.*</query>
      </grants>
    </default>
  </users>
  <quotas><default></default></quotas>
</clickhouse>
"""  # noqa: E501


def write_config(folder: Path, settings: Settings) -> Path:
    """Write the engine's files into `folder`; returns the one to start with."""
    memory = settings.clickhouse_memory_bytes
    users, server = folder / "users.xml", folder / "engine.xml"
    users.write_text(
        _USERS.format(query_memory=memory * 3 // 4, spill=memory // 4, result=memory // 4)
    )
    server.write_text(
        _SERVER.format(
            memory=memory, cache=32 * _MIB, small_cache=16 * _MIB, users=escape(str(users))
        )
    )
    return server

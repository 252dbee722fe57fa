"""The database's schema as numbered steps; step N takes `user_version` from N-1 to N in one transaction.

A step that was released never changes: append the next one. Blobs are JSON written by the module that owns the table.
"""

from __future__ import annotations

from collections.abc import Sequence

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        "create table instances (id text primary key, name text unique, spec blob, state blob, created_ns integer)",
        "create table images (id text primary key, record blob not null, added_ns integer not null)",
        "create table image_references (name text primary key, image_id text not null references images (id))",
        "create index image_references_by_image on image_references (image_id)",
        "create table leases (id text primary key, created_ns integer not null, expires_ns integer not null)",
        "create table lease_items (lease_id text not null, kind text not null, item text not null,"
        " primary key (lease_id, kind, item)) without rowid",
        "create table kv (key text primary key, value blob) without rowid",
    ),
    ("create table volumes (name text primary key, record blob not null, created_ns integer not null)",),
)

-- The answers of commands that came with an Idempotency-Key, kept until they expire. Written in the same statement as the
-- command's events, so that a key is there exactly when its outcome is.

create table idempotency_keys (
    key_hash     bytea       not null,
    request_hash bytea       not null,
    answer       json        not null,
    expires_at   timestamptz not null,
    constraint idempotency_keys_pkey primary key (key_hash),
    constraint idempotency_keys_key_hash_check check (octet_length(key_hash) = 32),
    constraint idempotency_keys_request_hash_check check (octet_length(request_hash) = 32)
);
create index idempotency_keys_expires_at_idx on idempotency_keys (expires_at);

comment on table idempotency_keys is 'SHA-256 of account, route and key → what was asked (SHA-256) and what was answered.';

# Images of the three programs, a target for each:
#
#   docker build --target command-service -t config-api/command-service .
#   docker build --target query-service   -t config-api/query-service .
#   docker build --target config-api      -t config-api/config-api .
#
# The same source gives the same binary (deploy/reproducible): versions are locked, paths are the image's, and the one part
# in C that has the time of its build in it (mimalloc) is told another.

FROM rust:1.95-bookworm AS build
WORKDIR /build
ENV CARGO_INCREMENTAL=0 \
    CARGO_PROFILE_RELEASE_STRIP=symbols \
    SOURCE_DATE_EPOCH=0 \
    RUSTFLAGS="--remap-path-prefix=/build=/ --remap-path-prefix=/usr/local/cargo=/cargo"

# What the programs depend on, in a layer of its own, which lasts until a manifest changes: built with sources that say nothing.
# Every member's manifest has to be there, also of those that are not built here.
COPY Cargo.toml Cargo.lock ./
COPY bench/Cargo.toml bench/
COPY command-service/Cargo.toml command-service/
COPY embedded-postgres/Cargo.toml embedded-postgres/
COPY query-service/Cargo.toml query-service/
COPY shared/Cargo.toml shared/
COPY standalone/Cargo.toml standalone/
COPY tests/Cargo.toml tests/
RUN for member in bench command-service embedded-postgres query-service shared standalone tests; do \
        mkdir -p "$member/src" && touch "$member/src/lib.rs" && echo 'fn main() {}' >"$member/src/main.rs" || exit 1; \
    done \
    && cargo build --release --locked --package command-service --package query-service --package config-api \
    && rm -r ./*/src

# The sources. Cargo goes by times, and a file of the context may be older than what was built in its place.
COPY . .
RUN find . -path ./target -prune -o -type f -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --package command-service --package query-service --package config-api

# No shell, no package manager, and the user 65532, which is nobody's. It has the C library and the root certificates. Nothing is
# written: the root file system may be read-only.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="Config API"
USER 65532:65532

# Inside a container the network is that of the deployment; each program still refuses to serve it before it is told so
# (INSECURE_NO_AUTH), because nobody has to authenticate. An image must not say that for whoever runs it.

FROM base AS command-service
LABEL org.opencontainers.image.title="command-service" \
      org.opencontainers.image.description="Takes changes of configurations and appends them to the event log"
COPY --from=build /build/target/release/command-service /usr/local/bin/command-service
ENV LISTEN_ADDR=0.0.0.0:4001
EXPOSE 4001
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/command-service", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/command-service"]

FROM base AS query-service
LABEL org.opencontainers.image.title="query-service" \
      org.opencontainers.image.description="Serves the configurations that the event log holds, and their history"
COPY --from=build /build/target/release/query-service /usr/local/bin/query-service
ENV LISTEN_ADDR=0.0.0.0:4002
EXPOSE 4002
HEALTHCHECK --interval=5s --timeout=5s --start-period=300s --retries=3 CMD ["/usr/local/bin/query-service", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/query-service"]

# Both in one process, on a given Postgres: the image has none of its own.
FROM base AS config-api
LABEL org.opencontainers.image.title="config-api" \
      org.opencontainers.image.description="Config API in one process, over the Postgres that DATABASE_URL names"
COPY --from=build /build/target/release/config-api /usr/local/bin/config-api
ENV LISTEN_ADDR=0.0.0.0:4000
EXPOSE 4000
HEALTHCHECK --interval=5s --timeout=5s --start-period=300s --retries=3 CMD ["/usr/local/bin/config-api", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/config-api"]

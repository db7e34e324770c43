# One image for every command: worker, serve, machines, submit, …
#
#   docker build -t cofferdam .
#
# Both base images can be replaced, by one from a registry of your own or one pinned by digest. The
# C library of the second must not be older than that of the first.
ARG RUST_IMAGE=rust:1-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

# By itself, so that scripts/compose-check can tell crates that cannot be had from a broken build.
FROM ${RUST_IMAGE} AS crates
WORKDIR /src
COPY . .
RUN cargo fetch --locked

FROM crates AS build
RUN cargo build --release --locked --bin cofferdam

FROM ${BASE_IMAGE}
# Machines of the image `host` see this image's /usr. What their programs need beyond a shell is
# named here ("python3 git"); nothing of it is needed by cofferdam itself.
ARG GUEST_PACKAGES=""
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        bubblewrap ca-certificates ${GUEST_PACKAGES} \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --shell /usr/sbin/nologin \
        --home-dir /var/lib/cofferdam cofferdam \
    && install -d -m 0700 -o cofferdam -g cofferdam /var/lib/cofferdam
COPY --from=build /src/target/release/cofferdam /usr/local/bin/cofferdam
# The guest agent, for images that bring it: COPY --from=… /usr/share/cofferdam/cofferdam-guest /opt/
RUN install -d /usr/share/cofferdam \
    && cofferdam guest-program /usr/share/cofferdam/cofferdam-guest
COPY scripts/container-health /usr/local/bin/container-health

ENV COFFERDAM_STATE_DIR=/var/lib/cofferdam
WORKDIR /var/lib/cofferdam
# By number, so that a runtime can see without a look inside that it is not root.
USER 10001
# worker and serve answer on their admin address. It is only reached from inside the container.
HEALTHCHECK --interval=10s --timeout=8s --start-period=20s CMD ["container-health"]
ENTRYPOINT ["cofferdam"]
CMD ["--help"]

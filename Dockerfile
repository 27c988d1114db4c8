# syntax=docker/dockerfile:1
# Jobber and its C++ jobs: static binaries, in an image that holds nothing else. Jobs that need a shell or libraries want
# a base of their own; take the binary from here:
#   FROM debian:bookworm-slim
#   COPY --from=jobber:local /usr/local/bin/jobber /usr/local/bin/jobber

FROM rust:1.95-slim-bookworm AS build
# The base image names the release; within it the newest, which has the security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked \
    && tools/stage-image target/release/jobber /image

FROM scratch
COPY --from=build /image/root/ /
COPY --from=build --chown=10001:10001 /image/state/ /
ENV JOBBER_DATA_DIR=/data JOBBER_JOBS_DIR=/jobs
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s --retries=3 CMD ["/usr/local/bin/jobber", "health"]
ENTRYPOINT ["/usr/local/bin/jobber"]
CMD ["serve"]

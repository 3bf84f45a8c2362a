# Nothing but the binary and what it reads: no shell, no package manager, no step that runs. `make image` puts .tmp/image together
# (a static binary, the public root certificates, empty folders) and builds this with plain docker build.
FROM scratch

ARG VERSION=devel
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z

LABEL org.opencontainers.image.title="Waybill" \
      org.opencontainers.image.description="Order processing whose every order ends well or is undone: one process or any split of services" \
      org.opencontainers.image.url="https://github.com/waybill-dev/waybill" \
      org.opencontainers.image.source="https://github.com/waybill-dev/waybill" \
      org.opencontainers.image.documentation="https://github.com/waybill-dev/waybill/blob/main/docs/operating.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

COPY .tmp/image/root/ /
# The one folder the user may write to besides /tmp, for a process that keeps its own data; both may be volumes.
COPY --chown=65532:65532 .tmp/image/data/ /data/

USER 65532:65532
WORKDIR /
# REST, gRPC for clients, gRPC between services, and health and metrics, which stay private.
EXPOSE 8080 8081 9090 9091
STOPSIGNAL SIGTERM

ENTRYPOINT ["/waybill"]
CMD ["serve"]

# Serves the store at GPUSCOUT_DB: pages and REST API on port 8000. docs/production.md shows how to run it.
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/gpuscout \
    && /opt/gpuscout/bin/pip install --no-cache-dir --constraint constraints.txt '.[web,postgres]'

FROM python:3.13-slim
LABEL org.opencontainers.image.title="gpuscout" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gpuscout /opt/gpuscout
# A user without a name, a home and rights; nothing is written, so that the file system can be read-only.
USER 10001:10001
ENV PATH=/opt/gpuscout/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
ENTRYPOINT ["gpuscout"]
CMD ["serve", "--host", "0.0.0.0"]

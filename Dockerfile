# Two stages: the first has the package client and makes the environment, the second only runs it, as an ordinary user.
#
#   docker build -t roundhouse .
#   docker run -p 8080:8080 -e ROUNDHOUSE_API_KEY=… -v models:/data/models roundhouse
#
# The embedded default model is part of the image; other GGUF files go into /data/models. The state folder, with the ledger, is /data/state.
#
#   docker build --build-arg PACKAGES="psycopg[binary] opentelemetry-exporter-otlp-proto-http" …    for DATABASE_URL, for OTLP

FROM python:3.12-slim AS build
WORKDIR /app
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
# in the versions that are tested
ARG PACKAGES=""
COPY requirements-dev.lock ./
RUN sed -e '/--hash/d' -e 's/ *\\$//' requirements-dev.lock > tested.txt \
 && { [ -z "$PACKAGES" ] || /venv/bin/pip install --no-cache-dir -c tested.txt $PACKAGES; }
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY providers providers
COPY gateway gateway
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --no-index . \
 && /venv/bin/roundhouse pull --models-dir /data/models

FROM python:3.12-slim
# llama.cpp's library needs the OpenMP runtime where the wheel does not bring its own
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data roundhouse \
 && mkdir -p /data/models /data/state && chown -R roundhouse /data
COPY --from=build /venv /venv
COPY --from=build --chown=roundhouse /data/models /data/models
COPY config/docker.toml /etc/roundhouse/roundhouse.toml
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ROUNDHOUSE_CONFIG=/etc/roundhouse/roundhouse.toml \
    ROUNDHOUSE_MODELS_DIR=/data/models \
    ROUNDHOUSE_STATE_DIR=/data/state
USER roundhouse
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/live', timeout=2)"]
# exec form: the gateway is process 1 and gets SIGTERM itself
CMD ["roundhouse", "serve"]

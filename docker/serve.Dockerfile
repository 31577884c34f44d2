# The service and its bundles: no PyTorch, no compiler, no shell needed, nothing writable. Nothing can be installed into
# a running container, so what operators may ask for (rates shared through Redis, spans) is in the image.
#
#   docker build -f docker/serve.Dockerfile -t copyist .
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges copyist

FROM python:3.11-slim-bookworm AS build

# A package index of your own is named at build time and stays out of the final image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src
RUN python3 -m venv --without-pip /opt/venv

# Dependencies first: they change less often than the code and the bundles.
COPY pyproject.toml ./
RUN python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras['redis'], *extras['otel'], sep='\n')" \
        > requirements.txt \
    && python3 -m pip --python /opt/venv/bin/python install --requirement requirements.txt
# The kernel is compiled here; where no compiler can be had, the image serves without it, by ONNX Runtime alone. Its
# version does not matter: it stays in this stage.
# hadolint ignore=DL3008
RUN { apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; } >/dev/null \
    || echo "no C compiler here: the image will have no kernel" >&2
COPY README.md LICENSE ./
COPY model model
COPY export export
COPY service service
RUN python3 -m pip --python /opt/venv/bin/python install --no-deps .

FROM python:3.11-slim-bookworm

RUN groupadd --system --gid 10001 copyist \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin copyist
COPY --from=build /opt/venv /opt/venv

# Inside a container the service must listen on every address; outside, publishing the port decides who reaches it.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    COPYIST_HOST=0.0.0.0 \
    COPYIST_PORT=8000

USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['COPYIST_PORT'] + '/healthz', timeout=3)"]

CMD ["python", "-m", "service"]

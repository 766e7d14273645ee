# diffbir for CPUs: docker build -t diffbir . (docs/containers.md). Dockerfile.cuda differs in its packages.
FROM docker.io/library/python:3.13.9-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY configs configs
COPY docs docs
COPY diffbir_jax diffbir_jax
ARG EXTRAS=serve,formats
# The mount keeps downloads between builds and out of the image.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/diffbir \
    && /opt/diffbir/bin/pip install --disable-pip-version-check ".[$EXTRAS]" \
    && /opt/diffbir/bin/pip uninstall --yes pip

FROM docker.io/library/python:3.13.9-slim-bookworm
# Any user may write into the cache: docker run --user "$(id -u)" makes results yours.
RUN useradd --uid 10001 --create-home diffbir && install --directory --mode=1777 /cache /work
COPY --from=build /opt/diffbir /opt/diffbir
ENV PATH=/opt/diffbir/bin:$PATH XDG_CACHE_HOME=/cache
VOLUME /cache
USER 10001
WORKDIR /work
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["diffbir"]
CMD ["serve", "--host", "0.0.0.0"]

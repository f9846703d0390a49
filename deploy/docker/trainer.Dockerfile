# The trainer, on CPU builds of torch; another TORCH_INDEX brings those of a GPU.
# Tags become digests with `make pin-images`.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
RUN python -m venv /app
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /app/bin/pip install --no-cache-dir --index-url ${TORCH_INDEX} torch==2.13.0
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protos protos
COPY services services
COPY trainer trainer
RUN /app/bin/pip install --no-cache-dir --constraint constraints.txt '.[trainer]' \
 && /app/bin/pip uninstall --yes pip \
 && find /app -name '__pycache__' -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE}
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["clozerec"]
CMD ["train", "/data/payload.yaml", "--output", "/bundles"]

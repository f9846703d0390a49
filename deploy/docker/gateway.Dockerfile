# The gateway: no torch, no faiss, no onnxruntime.
# Tags become digests with `make pin-images`.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
RUN python -m venv /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protos protos
COPY services services
COPY trainer trainer
RUN /app/bin/pip install --no-cache-dir --constraint constraints.txt '.[gateway,tracing]' \
 && /app/bin/pip uninstall --yes pip \
 && find /app -name '__pycache__' -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE}
COPY --from=build /app /app
# A named volume takes its owner from here; root's could not be written, for no capability overrides permissions.
RUN install --directory --owner 65532 --group 65532 /state
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 CLOZEREC_HOST=0.0.0.0
USER 65532:65532
WORKDIR /tmp
EXPOSE 50050 8080 9090
ENTRYPOINT ["clozerec"]
CMD ["serve", "gateway"]

# A trained bundle as an image, so that its digest names what is served:
#   docker build --file deploy/docker/bundle.Dockerfile --tag registry/clozerec/bundle:1 bundles/current/
# The shell in it serves the init container that copies the bundle; as an image volume nothing runs.
ARG SHELL_IMAGE=busybox:1.37

FROM ${SHELL_IMAGE}
COPY . /bundle
USER 65532:65532

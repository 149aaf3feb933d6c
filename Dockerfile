# patchkin in a container, for processors (the default) or for NVIDIA GPUs:
#
#   docker build -t patchkin .
#   docker build -t patchkin:cuda --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04 .
#   docker run --rm -v "$PWD:/work" -v patchkin-cache:/cache patchkin translate horse2zebra photo.jpg -o out
#   docker run --rm --gpus all --shm-size 4g -v "$PWD:/work" -v patchkin-cache:/cache patchkin:cuda train ...
#
# torch is taken with its own CUDA libraries, so the CUDA base has the driver's interface alone.
# For processors, TORCH_INDEX names the index of the processor-only builds (see docs/install.md);
# without it the usual torch is installed, which is 4 GB larger and runs as well.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

ARG TORCH_INDEX=
ARG EXTRAS=metrics,tiff,heic

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# What changes seldom comes first, so that a change of the code installs nothing anew.
ENV PATH=/opt/patchkin/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /src/
RUN python3 -m venv /opt/patchkin \
    && pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c /src/constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c /src/constraints.txt "/src[${EXTRAS}]" \
    && patchkin --version

# Files that it writes belong to the user who runs it: `docker run --user "$(id -u):$(id -g)"`.
RUN useradd --create-home patchkin \
    && mkdir -p /work /cache \
    && chown patchkin:patchkin /work /cache \
    && chmod 1777 /cache
USER patchkin
ENV PATCHKIN_CACHE=/cache TORCH_HOME=/cache/torch MPLCONFIGDIR=/cache/matplotlib
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["patchkin"]
CMD ["--help"]

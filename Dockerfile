# syntax=docker/dockerfile:1
#   docker build --target cpu -t lookout .
#   docker run --rm -p 8080:8080 -e LOOKOUT_WEB_TOKEN=... -v ./lookout.yaml:/etc/lookout/lookout.yaml:ro lookout
#   docker build --target cuda -t lookout:cuda . && docker run --gpus all ... lookout:cuda
# Devices: --device /dev/video0 --group-add video, --device /dev/dri --group-add $(getent group render | cut -d: -f3).

ARG DEBIAN=debian:trixie-20260803-slim@sha256:3a39a0592364683e6bab97937b72cad5a8fa6dcbbee90edb3bb48c7f8e94f258
ARG CUDA=nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04

# --- what the program is built with; nothing of this but the libraries goes on -------------------------------------------
FROM ${DEBIAN} AS deps
ENV LOOKOUT_CACHE=/opt/lookout
WORKDIR /src
COPY scripts/deps.sh scripts/
RUN scripts/deps.sh && rm -rf /var/lib/apt/lists/*

FROM deps AS build
COPY . .
# The libraries keep their places, which the program has written into it.
RUN --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/root/go/pkg/mod \
    make build && mkdir -p /out/usr/local/bin && cp bin/lookout /out/usr/local/bin/ \
 && cp -a --parents /opt/lookout/ffmpeg-*/lib/lib*.so.* /opt/lookout/onnxruntime-*/lib /out/

FROM deps AS deps-cuda
RUN scripts/deps.sh cuda && rm -rf /var/lib/apt/lists/* && mkdir -p /out && cp -a --parents /opt/lookout/onnxruntime-gpu-*/lib /out/ \
 && ln -s "$(ls -d /opt/lookout/onnxruntime-gpu-*/lib)" /out/opt/lookout/gpu

# --- the image for CPUs ---------------------------------------------------------------------------------------------------
FROM ${DEBIAN} AS cpu
# redis-server is for `lookout demo`, which runs a private one; the va drivers are for decoder: vaapi.
RUN apt-get update && apt-get install -y --no-install-recommends \
      ca-certificates libvpx9 libdav1d7 libssl3t64 zlib1g libva2 libva-drm2 libdrm2 mesa-va-drivers redis-server \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/lookout lookout
COPY --from=build /out/ /
COPY configs/lookout.yaml /etc/lookout/lookout.yaml
ENV LOOKOUT_STATE_DIR=/var/lib/lookout LOOKOUT_WEB_LISTEN=0.0.0.0:8080
USER lookout
WORKDIR /var/lib/lookout
VOLUME /var/lib/lookout
EXPOSE 8080/tcp
# bash speaks enough HTTP; the image needs no client for it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '200 OK' <&3"]
ENTRYPOINT ["lookout"]
CMD ["run", "-c", "/etc/lookout/lookout.yaml"]

# --- the image for NVIDIA GPUs: the same, with the ONNX Runtime for them and the libraries that it loads -----------------
FROM ${CUDA} AS nvidia
RUN mkdir /nvidia && cd /usr/local/cuda/lib64 && cp -L \
      libcudart.so.12 libcublas.so.12 libcublasLt.so.12 libcufft.so.11 libcurand.so.10 libnvrtc.so.12 libnvJitLink.so.12 \
      /usr/lib/x86_64-linux-gnu/libcudnn*.so.9 /nvidia/

FROM cpu AS cuda
COPY --from=nvidia /nvidia/ /opt/lookout/nvidia/
COPY --from=deps-cuda /out/ /
ENV LD_LIBRARY_PATH=/opt/lookout/nvidia \
    LOOKOUT_ONNXRUNTIME=/opt/lookout/gpu/libonnxruntime.so \
    LOOKOUT_DEVICE=auto \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,video,utility

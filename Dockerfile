# tsformer: one image for training and serving.
#   docker build -t tsformer .                                   # CPU
#   docker build -t tsformer:cuda --build-arg TORCH=cuda .       # NVIDIA GPU
#   docker run --rm -v tsformer:/data tsformer demo
#   docker run --rm --network host --shm-size 1g -v tsformer:/data tsformer   # serves at 127.0.0.1:8000
# Without a key the service listens on a loopback address alone, hence the host's network. With one:
#   docker run --rm -v tsformer:/data tsformer keys add --role operator
#   docker run --rm -p 8000:8000 --shm-size 1g -v tsformer:/data tsformer serve --host 0.0.0.0
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tsformer
ENV PATH=/opt/tsformer/bin:$PATH
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
# torch first: the CPU build comes from its own index, the ordinary one carries CUDA
RUN if [ "$TORCH" = cpu ]; then \
      pip install -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu; \
    else \
      pip install -c constraints.txt torch; \
    fi
COPY tsformer tsformer
COPY pipelines pipelines
COPY serving serving
COPY configs configs
# ONNX Runtime runs models on a CPU faster than torch does
RUN if [ "$TORCH" = cpu ]; then \
      pip install -c constraints.txt '.[onnx]'; \
    else \
      pip install -c constraints.txt .; \
    fi

FROM python:${PYTHON}-slim
RUN useradd --uid 65532 --create-home --home-dir /data tsformer
COPY --from=build /opt/tsformer /opt/tsformer
ENV PATH=/opt/tsformer/bin:$PATH \
    TSFORMER_HOME=/data \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1
USER tsformer
WORKDIR /data
VOLUME /data
ENTRYPOINT ["tsformer"]
CMD ["serve"]

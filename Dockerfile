# Built and run as docs/how-to/docker.md says.
FROM pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime

# Kernels are compiled where they run, which takes a compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# The image's PyTorch may be that of its system's Python, which pip leaves alone unless told.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /qbench
COPY pyproject.toml README.md tox.ini conftest.py ./
COPY qbench_suite qbench_suite
COPY plugins plugins
COPY cases cases
RUN python -m pip install --no-cache-dir --editable .[report]

# Whoever the container runs as may write these, and nothing else.
RUN useradd --uid 10001 --no-create-home --home-dir /cache qbench \
    && mkdir /cache /data /imagenet /results \
    && chmod 1777 /cache /data /results
ENV HOME=/cache \
    USER=qbench \
    PYTHONDONTWRITEBYTECODE=1 \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    QBENCH_DATA=/data \
    QBENCH_IMAGENET=/imagenet \
    PYTEST_ADDOPTS="--qbench-results=/results -p no:cacheprovider"
USER qbench
VOLUME ["/cache", "/data", "/results"]
CMD ["qbench", "doctor"]

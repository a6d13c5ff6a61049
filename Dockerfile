# One image per service: docker build --target gateway|encoder|retriever|imagestore .
# Each image holds all the code, and only the packages of its own service.

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /wentu
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY requirements requirements
COPY protos protos
COPY services services
COPY gateway gateway
COPY cli cli

FROM base AS gateway
RUN pip install -c requirements/constraints.txt '.[gateway]'
RUN useradd --create-home wentu
USER wentu
EXPOSE 50050
CMD ["python", "-m", "gateway"]

FROM base AS retriever
RUN pip install -c requirements/constraints.txt '.[retriever]'
RUN useradd --create-home wentu
USER wentu
EXPOSE 50052
CMD ["python", "-m", "services.retriever"]

FROM base AS imagestore
RUN pip install -c requirements/constraints.txt '.[imagestore]'
RUN useradd --create-home wentu
USER wentu
EXPOSE 50053
CMD ["python", "-m", "services.imagestore"]

# TORCH names the build: torch==2.13.0 brings CUDA; torch==2.13.0+cpu needs PIP_EXTRA_INDEX_URL (see README, Installing).
FROM base AS encoder
ARG TORCH=torch==2.13.0
ARG PIP_EXTRA_INDEX_URL=
RUN pip install "$TORCH"
RUN pip install -c requirements/constraints.txt '.[encoder]'
RUN pip install --no-deps -r requirements/cn-clip.txt
RUN useradd --create-home wentu
USER wentu
EXPOSE 50051
CMD ["python", "-m", "services.encoder"]

# The programs of the small K2 (broker, stream, consumer, api) in one image; the command says which.
# BASE is any image with Python from 3.11 on and its venv module, such as one that is built where no registry answers.
ARG BASE=python:3.12-slim

# What k2run needs changes less often than k2run: this layer is kept while the code changes.
FROM ${BASE} AS requirements
WORKDIR /src
COPY pyproject.toml ./
# An environment of its own: the system's Python may refuse packages from elsewhere. pip compiles what it installs.
RUN python3 -m venv /opt/k2run \
    && python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); broker = [need for need in p['project']['optional-dependencies']['sandbox'] if not need.startswith('k2run')] + p['project']['optional-dependencies']['postgres']; print(*p['project']['dependencies'], *broker, *p['build-system']['requires'], sep='\n')" > requirements.txt \
    && /opt/k2run/bin/pip install --no-cache-dir -r requirements.txt

FROM requirements AS build
COPY README.md LICENSE ./
COPY k2run k2run
COPY runbooks runbooks
COPY schemas schemas
RUN /opt/k2run/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE}
RUN useradd --create-home --uid 10001 k2 && install -d -o k2 /home/k2/consumer
COPY --from=build /opt/k2run /opt/k2run
USER k2
WORKDIR /home/k2
ENV PATH=/opt/k2run/bin:$PATH PYTHONUNBUFFERED=1
# Each service overrides it; alone, the image says what is in it.
CMD ["python", "-m", "k2run.k2.platform.stream", "--help"]

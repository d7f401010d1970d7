# The programs of the small K2 (stream, consumer, api) in one image; the command says which.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY k2run k2run
COPY runbooks runbooks
RUN pip install --no-cache-dir --prefix=/install . && python -m compileall -q /install

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 k2
COPY --from=build /install /usr/local
USER k2
WORKDIR /home/k2
ENV PYTHONUNBUFFERED=1
# Each service overrides it; alone, the image says what is in it.
CMD ["python", "-m", "k2run.sandbox.stream", "--help"]

# An image for CPUs. Build and use it:
#   docker build -t p2ch13 .
#   docker run --rm -v "$PWD:/scans" p2ch13 predict "scan.nii.gz"
FROM python:3.11-slim

WORKDIR /src
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml setup.py README.md ./
COPY util ./util
COPY p2ch13 ./p2ch13
RUN pip install --no-cache-dir .

RUN useradd --create-home --uid 1000 p2ch13
USER p2ch13
WORKDIR /scans
ENTRYPOINT ["p2ch13"]

# A node of a swarm as an image. BASE is any image with Python 3.11 or newer and pip; dependencies that it has already are not fetched.
#
#     docker build -t swarmbus .
#     docker build -t swarmbus --build-arg BASE=registry.example/python:3.12 .
ARG BASE=python:3.11-slim
FROM ${BASE}

WORKDIR /opt/swarmbus
COPY pyproject.toml requirements.lock ./
COPY tools/image-facts ./image-facts
RUN python3 image-facts \
    && python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --constraint requirements.lock --requirement requirements.txt
COPY services ./services
COPY swarmbus ./swarmbus
COPY tools/container-node /usr/local/bin/container-node
RUN printf '#!/bin/sh\nexec python3 -P -m services.cli.supervisor "$@"\n' > /usr/local/bin/supervisor \
    && printf '#!/bin/sh\nexec python3 -P -m services.cli.swarmctl "$@"\n' > /usr/local/bin/swarmctl \
    && chmod 0755 /usr/local/bin/supervisor /usr/local/bin/swarmctl /usr/local/bin/container-node

ENV PYTHONPATH=/opt/swarmbus \
    PYTHONDONTWRITEBYTECODE=1 \
    SWARM_SOCKET=/var/lib/swarmbus/control.sock
VOLUME /var/lib/swarmbus
EXPOSE 4242 4243 4244
STOPSIGNAL SIGTERM
ENTRYPOINT ["container-node"]

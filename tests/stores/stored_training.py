"""The function of the stores kept here. It is never changed: its syntax tree is part of what their rows say."""


def train(config):
    for epoch in range(1, max(config["epoch"]) + 1):
        yield {"epoch": epoch, "loss": config["size"] ** -0.5 / epoch * (1 + 0.01 * config["seed"])}

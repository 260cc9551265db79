"""The server behind ``dmdd serve``: an HTTP endpoint for machines and a page for people, around one predictor."""

import os

# Before Gradio is imported anywhere below: it would report its use to its makers.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

"""The server behind ``dmdd serve``: an HTTP endpoint for machines and a page for people, around one predictor."""

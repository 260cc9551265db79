"""Reading data: published layouts, images and masks, the demo data set, and `python -m dmdd.data`."""

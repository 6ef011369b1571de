"""The napari plugin (https://napari.org): a reader and a widget, declared in `napari.yaml`."""

"""The layout of each artefact's folder, and how a reader knows that it is whole."""

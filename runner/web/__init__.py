"""The page and the REST API over one store: what the commands answer, in a browser and over HTTP. Reads only."""

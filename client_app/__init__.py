"""The site: its data, its training, its evaluation, and the personal layers it keeps."""

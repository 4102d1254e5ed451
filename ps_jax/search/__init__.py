"""Search in one's own pictures and videos: galleries, their index, queries, a page and a local server."""

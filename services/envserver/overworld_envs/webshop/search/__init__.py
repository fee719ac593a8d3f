"""Upstream's search engine: Lucene's terms and BM25 scores."""

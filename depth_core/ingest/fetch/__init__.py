"""From a URL to bytes: http(s) behind the SSRF guard, buckets and local files."""

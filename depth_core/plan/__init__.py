"""What a manifest will cost before it is begun: rows, downloads, device hours, requests to S3, disk."""

"""The inbox: a folder, local or s3, in which a JSON file with the API's body, one or a list, is a request.

watch.py        Watch: picks up files, makes their artworks, writes their answers
files.py        the folder: listing, reading, quarantine
file_errors.py  errors of single files, each tried again ever more slowly

`NAME.json` is picked up once and answered by `NAME.artwork.json` beside it when all its artworks have ended; what is not valid is
moved to `quarantine/` with the reason. The claim is a row of the database, by path and content: no file is moved to claim it, and
the same content under the same name is the same request. What does not belong here: the life of an artwork (artworks/).
"""

"""What a run leaves behind and how a person sees it: folder, console, tables, pictures. Never imports torch."""

FR: dict[str, str] = {}

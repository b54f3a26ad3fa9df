-- Whose address was put right: what is refused at the old one later is refused at the new one too.
CREATE INDEX rectification_former ON rectification (
    (json_extract(json_extract(changes, '$[0]'), '$.before'))
) WHERE changes LIKE '[{"field":"address",%';

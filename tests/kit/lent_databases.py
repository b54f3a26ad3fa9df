"""PostgreSQL databases lent to one test after another, each as good as new.

Creating one copies a thousand files; emptying one deletes the few rows that a test wrote.
"""

from functools import lru_cache

from tests.kit import postgres

_SHAPE = r"""
CREATE SCHEMA tests;
CREATE FUNCTION tests.shape() RETURNS text LANGUAGE sql AS $$
    SELECT md5(string_agg(part, E'\n' ORDER BY part)) FROM (
        SELECT concat_ws(' ', n.nspname, c.relname, c.relkind, c.relowner, c.relacl::text,
                         a.attname, a.atttypid, a.attnotnull, a.attacl::text)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tests')
        UNION ALL SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger
        UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, convalidated)
        FROM pg_constraint
        UNION ALL SELECT concat_ws(' ', nspname, nspacl::text) FROM pg_namespace
        UNION ALL SELECT concat_ws(' ', setrole, setconfig::text) FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL SELECT concat_ws(' ', datallowconn, datconnlimit, datacl::text) FROM pg_database
        WHERE datname = current_database()
    ) AS parts (part)
$$;
CREATE TABLE tests.new AS SELECT NULL::text AS shape;
DO $$
DECLARE
    one record;
    filled boolean;
BEGIN
    FOR one IN SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM public.%I)', one.name) INTO filled;
        IF filled THEN
            EXECUTE format('CREATE TABLE tests.%I AS TABLE public.%I', 'of_' || one.name, one.name);
        END IF;
    END LOOP;
    UPDATE tests.new SET shape = tests.shape();
END $$;
"""
_EMPTY = """
SET session_replication_role = replica;  -- no trigger counts, no key is in the way
DO $$
DECLARE
    one record;
    filled boolean;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    WHILE EXISTS (SELECT 1 FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()) LOOP
        PERFORM pg_sleep(0.005), pg_stat_clear_snapshot();
    END LOOP;
    ASSERT (SELECT shape = tests.shape() FROM tests.new), 'a test has changed more than rows';
    FOR one IN SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' LOOP
        IF pg_table_size(format('public.%I', one.name)) > 1000000 THEN
            EXECUTE format('TRUNCATE public.%I CASCADE', one.name);
        ELSE
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM public.%I)', one.name) INTO filled;
            IF filled THEN
                EXECUTE format('DELETE FROM public.%I', one.name);
            END IF;
        END IF;
    END LOOP;
    FOR one IN SELECT substr(tablename, 4) AS name FROM pg_tables
               WHERE schemaname = 'tests' AND tablename LIKE 'of\\_%' LOOP
        EXECUTE format('INSERT INTO public.%I OVERRIDING SYSTEM VALUE TABLE tests.%I',
                       one.name, 'of_' || one.name);
    END LOOP;
    PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
    FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL;
END $$;
"""

_free: list[str] = []


@lru_cache(maxsize=1)
def _template() -> str:
    """A database with all tables and no key, and a function to compare another one with it."""
    name = postgres.template()
    postgres.cluster().sql(name, _SHAPE)
    return name


def borrow() -> str:
    """Return the name of a database with all tables and no key."""
    return _free.pop() if _free else postgres.cluster().create(_template())


def give_back(name: str) -> None:
    """Empty a database for the next test, or drop it if a test has changed more than rows."""
    if postgres.cluster().does(name, _EMPTY):
        _free.append(name)
    else:
        postgres.cluster().drop(name)

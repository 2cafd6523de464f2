import { type Command, InvalidArgumentError, Option } from 'commander';

/** One command-line option: `--<name>`, environment variable `RINGBEAT_<NAME>`, and a line of docs/configuration.md. */
export interface OptionSpec<T> {
  /** Shown as `--name <placeholder>`; null for a switch. */
  readonly placeholder: string | null;
  readonly short?: string;
  readonly doc: string;
  readonly default: T;
  /** Least and greatest value of a number. */
  readonly min?: number;
  readonly max?: number;
  /** Fractions are refused. */
  readonly whole?: boolean;
  /** The typed value of what the user wrote; throws an Error that says what is allowed. */
  parse(text: string, previous: T): T;
}

// biome-ignore lint/suspicious/noExplicitAny: a table mixes value types; `OptionValues` gives each its own again.
export type OptionTable = Readonly<Record<string, OptionSpec<any>>>;

export type OptionValues<Table extends OptionTable> = {
  readonly [Name in keyof Table]: Table[Name] extends OptionSpec<infer T> ? T : never;
};

interface Described<T> {
  readonly doc: string;
  readonly default: T;
  readonly short?: string;
  readonly placeholder?: string;
}

export function text<T extends string | null = string>(spec: Described<T>): OptionSpec<T | string> {
  return { placeholder: 'TEXT', ...spec, parse: (value) => value };
}

export function oneOf<T extends string>(choices: readonly T[], spec: Described<T>): OptionSpec<T> {
  return {
    placeholder: choices.join('|'),
    ...spec,
    parse(value) {
      const choice = choices.find((choice) => choice === value);
      if (choice === undefined)
        throw new InvalidArgumentError(`Expected one of ${choices.join(', ')}, got "${value}".`);
      return choice;
    },
  };
}

/** A whole number within [min, max]. */
export function integer<T extends number | null = number>(
  spec: Described<T> & { readonly min: number; readonly max: number },
): OptionSpec<T | number> {
  return number({ ...spec, whole: true });
}

/** A number within [min, max]; `whole` refuses fractions. */
export function number<T extends number | null = number>(
  spec: Described<T> & { readonly min: number; readonly max: number; readonly whole?: boolean },
): OptionSpec<T | number> {
  return {
    placeholder: 'N',
    ...spec,
    parse(value) {
      const parsed = Number(value);
      const fits =
        value.trim() !== '' && parsed >= spec.min && parsed <= spec.max && (!spec.whole || Number.isInteger(parsed));
      if (!fits) {
        const kind = spec.whole ? 'a whole number' : 'a number';
        throw new InvalidArgumentError(`Expected ${kind} from ${spec.min} to ${spec.max}, got "${value}".`);
      }
      return parsed;
    },
  };
}

/** A value that may be given several times, or once with commas. */
export function list(spec: Described<readonly string[]>): OptionSpec<readonly string[]> {
  return {
    placeholder: 'TEXT,…',
    ...spec,
    parse: (value, previous) => [
      ...(previous === spec.default ? [] : previous),
      ...value.split(',').filter((part) => part !== ''),
    ],
  };
}

export function flag(spec: { readonly doc: string; readonly short?: string }): OptionSpec<boolean> {
  return {
    placeholder: null,
    ...spec,
    default: false,
    parse: (value) => value !== '0' && value !== 'false' && value !== '',
  };
}

/** `apiPort` -> `api-port`. */
export function optionName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** `apiPort` -> `RINGBEAT_API_PORT`. */
export function variableName(key: string): string {
  return `RINGBEAT_${optionName(key).replaceAll('-', '_').toUpperCase()}`;
}

/** Adds every option of the table to the command; a flag beats its environment variable, which beats the default. */
export function addOptions(command: Command, table: OptionTable): Command {
  for (const [key, spec] of Object.entries(table)) {
    const short = spec.short === undefined ? '' : `${spec.short}, `;
    const value = spec.placeholder === null ? '' : ` <${spec.placeholder}>`;
    const option = new Option(`${short}--${optionName(key)}${value}`, spec.doc);
    if (spec.placeholder === null) {
      // Commander takes a switch for given whenever its variable exists, whatever it says.
      const isOn = spec.parse(process.env[variableName(key)] ?? '', false);
      option.default(option.negate ? !isOn : isOn, isOn ? 'on' : 'off');
      option.description = `${spec.doc} (env: ${variableName(key)})`;
    } else {
      option.env(variableName(key)).default(spec.default);
    }
    if (spec.placeholder !== null) option.argParser((text, previous) => spec.parse(text, previous));
    command.addOption(option);
  }
  return command;
}

/** An option as `--help` explains it: with its default, where there is one, and its variable. */
export function describeOption({ description, defaultValue, envVar }: Option): string {
  const shown = Array.isArray(defaultValue) ? defaultValue.join(',') : (defaultValue ?? '');
  const facts = [
    ...(shown === '' || typeof shown === 'boolean' ? [] : [`default: ${shown}`]),
    ...(envVar === undefined ? [] : [`env: ${envVar}`]),
  ];
  return facts.length === 0 ? description : `${description} (${facts.join(', ')})`;
}

/** The parsed options of a command, typed by the table they were added from, frozen. */
export function optionValues<Table extends OptionTable>(command: Command, table: Table): OptionValues<Table> {
  const values = command.optsWithGlobals();
  // Commander keeps `--no-api` as `api: false`.
  const valueFor = (key: string) =>
    /^no[A-Z]/.test(key) ? values[key.charAt(2).toLowerCase() + key.slice(3)] === false : values[key];
  const entries = Object.keys(table).map((key) => [key, valueFor(key)]);
  return Object.freeze(Object.fromEntries(entries)) as OptionValues<Table>;
}

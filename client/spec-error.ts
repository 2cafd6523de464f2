import { RingbeatError } from '../protocol/errors.ts';
import type { FieldError } from '../schedule/field-errors.ts';
import { describeErrors } from '../schedule/spec.ts';

/** What was handed in is not valid (code BAD_SPEC); `errors` names the fields that are to blame, such as `schedule.every`. */
export class SpecError extends RingbeatError {
  readonly errors: readonly FieldError[];

  /** `what` names it: `schedule "x"`. */
  constructor(what: string, errors: readonly FieldError[]) {
    super('BAD_SPEC', { what, reason: describeErrors(errors) });
    this.name = 'SpecError';
    this.errors = errors;
  }
}

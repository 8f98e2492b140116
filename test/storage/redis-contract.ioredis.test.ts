import { describeContract } from './redis-contract.ts';

// A file for each kind of client, so that they run side by side.
describeContract('ioredis');

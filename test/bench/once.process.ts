/** A program that makes one call and ends: `node once.mjs sdk http://…`. */
import { contender, type ContenderName } from './contender.ts';

const [, , name, url = ''] = process.argv;
const client = await contender(name as ContenderName);
const connection = await client.connect(url);
await connection.call('echo', 'Hello, world!');
await connection.close();
